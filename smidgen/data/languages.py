"""Languages that a model can be cut for: their codes, their scripts, and beginnings of texts to let a model write them.

Codes are those of ISO 639-1; the three letters of ISO 639-3 are understood too. "code" stands for program text. The
openings are our own sentences, each the beginning of another kind of text: an encyclopedia, a story, news, advice.
Where we do not command a language well enough there are none, and a text of it has to be given. Torch-free.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from smidgen.errors import SmidgenError, printable

_SHOWN = ("en", "de", "fr", "es", "ru", "ar", "hi", "zh", "ja", "code")


@dataclass(frozen=True)
class Language:
    """code: of ISO 639-1.  scripts: Unicode's names for them.  openings: beginnings of texts, may be empty."""

    code: str
    name: str
    scripts: tuple[str, ...]
    openings: tuple[str, ...] = ()


def languages_of(codes: Iterable[str]) -> list[Language]:
    """The languages with these codes ("de" or "deu"), each once. Raises SmidgenError for a code not known here."""
    found: dict[str, Language] = {}
    for asked in codes:
        code = asked.strip().lower()
        code = _THREE_LETTERS.get(code, code)
        if code not in LANGUAGES:
            raise SmidgenError(
                f"the language {printable(asked, 20)!r} is not known here; known are {', '.join(_SHOWN)} and "
                f"{len(LANGUAGES) - len(_SHOWN)} others. For another one give its text with --text NAME=FILE."
            )
        found[code] = LANGUAGES[code]
    return list(found.values())


def languages_named(name: str | None) -> list[Language]:
    """The language that a text is named after, as in `--text de=FILE`; none for another name, or for no name."""
    try:
        return [] if name is None else languages_of([name])
    except SmidgenError:
        return []


def scripts_of(text: str) -> Counter[str]:
    """How many letters and signs of each script a text has. What belongs to none (digits, "!", 😀) is not counted."""
    counts: Counter[str] = Counter()
    for character, times in Counter(text).items():
        script = _script(character)
        if script is not None:
            counts[script] += times
    return counts


@lru_cache(maxsize=1 << 17)
def _script(character: str) -> str | None:
    """The first word of a letter's name in Unicode is its script, nearly always."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    words = unicodedata.name(character, "").split(" ")
    if words[0] in ("HALFWIDTH", "FULLWIDTH", "SUPERSCRIPT", "SUBSCRIPT"):
        words = words[1:]
    if words[:1] in (
        [""],
        [],
        ["COMBINING"],
        ["MODIFIER"],
        ["VARIATION"],
        ["MATHEMATICAL"],
        ["FEMININE"],
        ["MASCULINE"],
    ):
        return None
    return "Han" if words[0] in ("CJK", "IDEOGRAPHIC") else words[0].capitalize()


_LATIN, _CYRILLIC, _ARABIC = ("Latin",), ("Cyrillic",), ("Arabic",)
_DEVANAGARI = ("Devanagari",)

_ALL = (
    Language("en", "English", _LATIN, (
        "The town lies on the northern bank of the river, and for most of its history it",
        "When she opened the letter, she saw at once that it had not been written by her brother. It said",
        "The government said on Tuesday that it would not change its plans, although several",
        "To make a good soup you need little more than water, salt and time. First,",
    )),
    Language("de", "German", _LATIN, (
        "Die Stadt liegt am nördlichen Ufer des Flusses und war lange Zeit",
        "Als sie den Brief öffnete, sah sie sofort, dass er nicht von ihrem Bruder war. Darin stand",
        "Die Bundesregierung teilte am Dienstag mit, dass sie an ihren Plänen festhalten werde, obwohl",
        "Für eine gute Suppe braucht man kaum mehr als Wasser, Salz und Zeit. Zuerst",
    )),
    Language("fr", "French", _LATIN, (
        "La ville est située sur la rive nord du fleuve et a longtemps été",
        "Quand elle ouvrit la lettre, elle comprit tout de suite qu'elle n'était pas de son frère. On y lisait",
        "Le gouvernement a annoncé mardi qu'il ne changerait pas ses projets, bien que",
        "Pour faire une bonne soupe, il ne faut guère que de l'eau, du sel et du temps. D'abord,",
    )),
    Language("es", "Spanish", _LATIN, (
        "La ciudad se encuentra en la orilla norte del río y durante mucho tiempo fue",
        "Cuando abrió la carta, vio enseguida que no era de su hermano. Decía",
        "El Gobierno anunció el martes que no cambiará sus planes, aunque varios",
        "Para hacer una buena sopa hace falta poco más que agua, sal y tiempo. Primero",
    )),
    Language("pt", "Portuguese", _LATIN, (
        "A cidade fica na margem norte do rio e durante muito tempo foi",
        "Quando abriu a carta, viu logo que não era do irmão. Dizia",
        "O governo anunciou na terça-feira que não vai mudar os seus planos, embora",
    )),
    Language("it", "Italian", _LATIN, (
        "La città si trova sulla riva settentrionale del fiume e per molto tempo è stata",
        "Quando aprì la lettera, vide subito che non era di suo fratello. C'era scritto",
        "Il governo ha annunciato martedì che non cambierà i suoi piani, anche se",
    )),
    Language("nl", "Dutch", _LATIN, (
        "De stad ligt op de noordelijke oever van de rivier en was lange tijd",
        "Toen ze de brief opende, zag ze meteen dat hij niet van haar broer was. Er stond in dat",
        "De regering heeft dinsdag laten weten dat ze haar plannen niet zal veranderen, hoewel",
    )),
    Language("sv", "Swedish", _LATIN, (
        "Staden ligger på flodens norra strand och var under lång tid",
        "När hon öppnade brevet såg hon genast att det inte var från hennes bror. Där stod",
        "Regeringen meddelade på tisdagen att den inte kommer att ändra sina planer, trots att",
    )),
    Language("da", "Danish", _LATIN, (
        "Byen ligger på flodens nordlige bred og var i lang tid",
        "Da hun åbnede brevet, så hun straks, at det ikke var fra hendes bror. Der stod",
        "Regeringen meddelte tirsdag, at den ikke vil ændre sine planer, selv om",
    )),
    Language("no", "Norwegian", _LATIN, (
        "Byen ligger på den nordlige bredden av elven og var i lang tid",
        "Da hun åpnet brevet, så hun straks at det ikke var fra broren hennes. Der sto det",
        "Regjeringen opplyste tirsdag at den ikke vil endre planene sine, selv om",
    )),
    Language("fi", "Finnish", _LATIN, (
        "Kaupunki sijaitsee joen pohjoisrannalla, ja se oli pitkään",
        "Kun hän avasi kirjeen, hän näki heti, ettei se ollut hänen veljeltään. Siinä luki",
        "Hallitus ilmoitti tiistaina, ettei se muuta suunnitelmiaan, vaikka",
    )),
    Language("pl", "Polish", _LATIN, (
        "Miasto leży na północnym brzegu rzeki i przez długi czas było",
        "Kiedy otworzyła list, od razu zobaczyła, że nie jest od jej brata. Było w nim napisane",
        "Rząd poinformował we wtorek, że nie zmieni swoich planów, chociaż",
    )),
    Language("cs", "Czech", _LATIN, (
        "Město leží na severním břehu řeky a dlouhou dobu bylo",
        "Když otevřela dopis, hned viděla, že není od jejího bratra. Stálo v něm",
        "Vláda v úterý oznámila, že své plány nezmění, přestože",
    )),
    Language("sk", "Slovak", _LATIN, (
        "Mesto leží na severnom brehu rieky a dlhý čas bolo",
        "Vláda v utorok oznámila, že svoje plány nezmení, hoci",
    )),
    Language("sl", "Slovenian", _LATIN),
    Language("hr", "Croatian", _LATIN, (
        "Grad se nalazi na sjevernoj obali rijeke i dugo je vremena bio",
        "Vlada je u utorak objavila da neće mijenjati svoje planove, iako",
    )),
    Language("sr", "Serbian", ("Cyrillic", "Latin"), (
        "Град се налази на северној обали реке и дуго времена је био",
        "Влада је у уторак саопштила да неће мењати своје планове, иако",
    )),
    Language("hu", "Hungarian", _LATIN, (
        "A város a folyó északi partján fekszik, és sokáig",
        "Amikor kinyitotta a levelet, rögtön látta, hogy nem a bátyja írta. Ez állt benne",
        "A kormány kedden közölte, hogy nem változtat a tervein, bár",
    )),
    Language("ro", "Romanian", _LATIN, (
        "Orașul se află pe malul nordic al râului și a fost multă vreme",
        "Când a deschis scrisoarea, a văzut imediat că nu era de la fratele ei. Scria",
        "Guvernul a anunțat marți că nu își va schimba planurile, deși",
    )),
    Language("bg", "Bulgarian", _CYRILLIC, (
        "Градът се намира на северния бряг на реката и дълго време е бил",
        "Правителството съобщи във вторник, че няма да промени плановете си, въпреки че",
    )),
    Language("el", "Greek", ("Greek",), (
        "Η πόλη βρίσκεται στη βόρεια όχθη του ποταμού και για πολύ καιρό ήταν",
        "Όταν άνοιξε το γράμμα, είδε αμέσως ότι δεν ήταν από τον αδελφό της. Έγραφε",
        "Η κυβέρνηση ανακοίνωσε την Τρίτη ότι δεν θα αλλάξει τα σχέδιά της, αν και",
    )),
    Language("ca", "Catalan", _LATIN, (
        "La ciutat es troba a la riba nord del riu i durant molt de temps va ser",
        "El Govern va anunciar dimarts que no canviarà els seus plans, tot i que",
    )),
    Language("et", "Estonian", _LATIN),
    Language("lv", "Latvian", _LATIN),
    Language("lt", "Lithuanian", _LATIN),
    Language("ga", "Irish", _LATIN),
    Language("mt", "Maltese", _LATIN),
    Language("ru", "Russian", _CYRILLIC, (
        "Город расположен на северном берегу реки и долгое время был",
        "Открыв письмо, она сразу увидела, что оно не от брата. В нём было написано",
        "Правительство сообщило во вторник, что не изменит своих планов, хотя",
        "Чтобы сварить хороший суп, нужны только вода, соль и время. Сначала",
    )),
    Language("uk", "Ukrainian", _CYRILLIC, (
        "Місто розташоване на північному березі річки і довгий час було",
        "Відкривши листа, вона одразу побачила, що він не від брата. У ньому було написано",
        "Уряд повідомив у вівторок, що не змінить своїх планів, хоча",
    )),
    Language("tr", "Turkish", _LATIN, (
        "Şehir, nehrin kuzey kıyısında yer alır ve uzun süre",
        "Mektubu açtığında, kardeşinden gelmediğini hemen anladı. Mektupta",
        "Hükümet salı günü yaptığı açıklamada planlarını değiştirmeyeceğini söyledi, ancak",
    )),
    Language("ar", "Arabic", _ARABIC, (
        "تقع المدينة على الضفة الشمالية للنهر، وكانت لفترة طويلة",
        "عندما فتحت الرسالة، عرفت على الفور أنها ليست من أخيها. كان مكتوبا فيها",
        "أعلنت الحكومة يوم الثلاثاء أنها لن تغير خططها، على الرغم من",
    )),
    Language("fa", "Persian", _ARABIC, (
        "این شهر در ساحل شمالی رودخانه قرار دارد و برای مدت طولانی",
        "دولت روز سه‌شنبه اعلام کرد که برنامه‌های خود را تغییر نخواهد داد، هرچند",
    )),
    Language("ur", "Urdu", _ARABIC),
    Language("he", "Hebrew", ("Hebrew",), (
        "העיר שוכנת על הגדה הצפונית של הנהר, ובמשך זמן רב הייתה",
        "כשפתחה את המכתב, ראתה מיד שהוא לא מאחיה. היה כתוב בו",
        "הממשלה הודיעה ביום שלישי שלא תשנה את תוכניותיה, למרות",
    )),
    Language("hi", "Hindi", _DEVANAGARI, (
        "यह शहर नदी के उत्तरी तट पर स्थित है और लंबे समय तक",
        "जब उसने चिट्ठी खोली, तो उसने तुरंत देखा कि वह उसके भाई की नहीं थी। उसमें लिखा था",
        "सरकार ने मंगलवार को कहा कि वह अपनी योजनाओं को नहीं बदलेगी, हालाँकि",
    )),
    Language("bn", "Bengali", ("Bengali",), (
        "শহরটি নদীর উত্তর তীরে অবস্থিত এবং দীর্ঘদিন ধরে",
        "সরকার মঙ্গলবার জানিয়েছে যে তারা তাদের পরিকল্পনা পরিবর্তন করবে না, যদিও",
    )),
    Language("mr", "Marathi", _DEVANAGARI),
    Language("ta", "Tamil", ("Tamil",)),
    Language("te", "Telugu", ("Telugu",)),
    Language("th", "Thai", ("Thai",), (
        "เมืองนี้ตั้งอยู่บนฝั่งเหนือของแม่น้ำ และเป็นเวลานาน",
        "รัฐบาลแถลงเมื่อวันอังคารว่าจะไม่เปลี่ยนแผน แม้ว่า",
    )),
    Language("vi", "Vietnamese", _LATIN, (
        "Thành phố nằm ở bờ bắc của con sông và trong một thời gian dài",
        "Khi mở lá thư ra, cô thấy ngay rằng đó không phải là thư của anh trai mình. Trong thư viết",
        "Hôm thứ Ba, chính phủ cho biết sẽ không thay đổi kế hoạch, mặc dù",
    )),
    Language("id", "Indonesian", _LATIN, (
        "Kota ini terletak di tepi utara sungai dan untuk waktu yang lama",
        "Ketika membuka surat itu, ia langsung melihat bahwa surat itu bukan dari kakaknya. Isinya",
        "Pemerintah mengatakan pada hari Selasa bahwa mereka tidak akan mengubah rencananya, meskipun",
    )),
    Language("zh", "Chinese", ("Han",), (
        "这座城市位于河的北岸，长期以来",
        "她打开信，立刻看出这不是她哥哥写的。信上说",
        "政府星期二表示，不会改变计划，尽管",
        "做一锅好汤，只需要水、盐和时间。首先",
    )),
    Language("ja", "Japanese", ("Han", "Hiragana", "Katakana"), (
        "この町は川の北岸にあり、長い間",
        "手紙を開けると、それが兄からのものではないことがすぐに分かった。そこには",
        "政府は火曜日、計画を変更しないと発表したが、",
    )),
    Language("ko", "Korean", ("Hangul",), (
        "이 도시는 강의 북쪽 기슭에 있으며 오랫동안",
        "편지를 열어 보니 오빠가 보낸 것이 아니라는 것을 바로 알 수 있었다. 편지에는",
        "정부는 화요일에 계획을 바꾸지 않겠다고 밝혔지만",
    )),
    Language("sw", "Swahili", _LATIN),
    Language("code", "program text", _LATIN, (
        "import os\nimport sys\n\n\ndef read_lines(path):\n    \"\"\"Return the lines of a file.\"\"\"\n",
        "#include <stdio.h>\n#include <stdlib.h>\n\nint main(int argc, char **argv)\n{\n",
        "'use strict';\n\nconst fs = require('fs');\n\nfunction loadConfig(path) {\n",
        "package com.example.server;\n\nimport java.util.List;\n\npublic class RequestHandler {\n",
    )),
)  # fmt: skip

LANGUAGES: Mapping[str, Language] = {language.code: language for language in _ALL}

_THREE_LETTERS = {
    "eng": "en", "deu": "de", "fra": "fr", "spa": "es", "por": "pt", "ita": "it", "nld": "nl", "swe": "sv",
    "dan": "da", "nor": "no", "nob": "no", "nb": "no", "fin": "fi", "pol": "pl", "ces": "cs", "slk": "sk",
    "slv": "sl", "hrv": "hr", "srp": "sr", "hun": "hu", "ron": "ro", "bul": "bg", "ell": "el", "cat": "ca",
    "est": "et", "lav": "lv", "lvs": "lv", "lit": "lt", "gle": "ga", "mlt": "mt", "rus": "ru", "ukr": "uk",
    "tur": "tr", "ara": "ar", "arb": "ar", "fas": "fa", "pes": "fa", "urd": "ur", "heb": "he", "hin": "hi",
    "ben": "bn", "mar": "mr", "tam": "ta", "tel": "te", "tha": "th", "vie": "vi", "ind": "id", "zho": "zh",
    "cmn": "zh", "jpn": "ja", "kor": "ko", "swa": "sw", "swh": "sw",
}  # fmt: skip
