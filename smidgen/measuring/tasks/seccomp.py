"""Kernel calls that a program in the sandbox must not make, as a filter that the kernel runs before each call.

Namespaces alone are not enough: in a user namespace of its own any program is root again and may mount another tmpfs
without a bound, and memory that System V shares counts for no process. So these calls fail as not permitted. Everything
else passes: the walls are bubblewrap's, this only keeps new ones from being opened.

The filter is classic BPF (struct sock_filter of linux/filter.h: code, jump if true, jump if false, operand) over struct
seccomp_data: the call's number at 0, the machine at 4, the low half of the first argument at 16.
https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
"""

import struct

_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06  # BPF_LD|W|ABS, JEQ, JGT, JSET, RET
_NUMBER, _MACHINE, _ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050001  # the last: fails with EPERM
_NO_SUCH_CALL = 0x00050026  # fails with ENOSYS, so that libraries fall back to the older call
_OWN_NAMESPACES = 0x7E020080  # CLONE_NEWUSER, NEWNS, NEWNET, NEWPID, NEWIPC, NEWUTS, NEWCGROUP, NEWTIME

# Numbers of calls on each machine (arch/*/include/…/unistd.h of Linux).
_MACHINES: dict[str, tuple[int, int]] = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_FORBIDDEN = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "mount_setattr": (442, 442),
    "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273), "memfd_secret": (447, 447),
}  # fmt: skip
_FIRST_OF_ANOTHER_ABI = 0x40000000  # x32 calls on x86_64 have numbers from here on


def forbidding_filter(machine: str) -> bytes | None:
    """The filter as bubblewrap takes it with `--seccomp`; None for a machine (`uname -m`) that is not known here."""
    if machine not in _MACHINES:
        return None
    audit, place = _MACHINES[machine]
    lines = [
        _line(_LOAD, 0, 0, _MACHINE),
        _line(_EQUAL, 1, 0, audit),
        _line(_RETURN, 0, 0, _KILL),
        _line(_LOAD, 0, 0, _NUMBER),
        _line(_ABOVE, 0, 1, _FIRST_OF_ANOTHER_ABI - 1),
        _line(_RETURN, 0, 0, _REFUSE),
    ]
    for numbers in _FORBIDDEN.values():
        lines += [_line(_EQUAL, 0, 1, numbers[place]), _line(_RETURN, 0, 0, _REFUSE)]
    lines += [_line(_EQUAL, 0, 1, _CLONE3[place]), _line(_RETURN, 0, 0, _NO_SUCH_CALL)]  # its flags are in memory
    lines += [
        _line(_EQUAL, 0, 3, _CLONE[place]),
        _line(_LOAD, 0, 0, _ARGUMENT),
        _line(_ANY_BIT, 0, 1, _OWN_NAMESPACES),
        _line(_RETURN, 0, 0, _REFUSE),
        _line(_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(lines)


def _line(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)
