"""The files of an exported model, by the names that OpenVINO GenAI looks for."""

MODEL = "openvino_model.xml"
NUMBERS = "openvino_model.bin"  # the weights
TOKENIZER = "openvino_tokenizer.xml"
DETOKENIZER = "openvino_detokenizer.xml"
