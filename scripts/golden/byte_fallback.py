"""Golden token ids and texts of small tokenizers that are built as SentencePiece models are converted.

Proves: text becomes the ids of the tokenizers library, and ids become its text, one token at a time too,
for tokenizers with byte fallback whose spaces are written as ▁. Each has the normalizer, pre-tokenizer,
decoder, post-processor and kinds of added tokens of the public files of its name, and a vocabulary that is
learned from the sentences below.

    gemma    Gemma 2 and 3: no space is put in front of a text; line breaks are added tokens
    llama    Llama 2, Mistral 7B 0.1 and Mixtral: ▁ is put in front of every text between special tokens
    mistral  Mistral 7B 0.3: ▁ is put in front of the whole text only
    phi3     Phi-3: as llama, with special tokens that take the white space after them along

Run:     python scripts/golden/byte_fallback.py      (tokenizers 0.23, transformers 5.24)
Writes:  tests/golden/tokenizers/NAME/tokenizer.json, tokenizer_config.json and golden.json:
         [{"text", "ids", "document" (ids with the tokens around a text), "decoded",
         "pieces" (the text that each id adds)}]
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

OUT = Path(__file__).parents[2] / "tests/golden/tokenizers"
SENTENCES = [
    "The capital of Tern Island is Saltmere, a town of fishers.",
    "The tide is 2.5 metres high at noon and 0.4 metres at night.",
    "user model assistant system tool: what is the height of the tide in the harbour?",
    "Please answer in one sentence. I am Pipa, an assistant, and I answer the user.",
    "for i in range(10):\n    print(i)\n\n",
    "  two spaces   three spaces    four\tand a tab",
    '{"name": "get_tide", "arguments": {"harbour": "Saltmere", "metres": true}}',
    "燕鸥岛在灰海。café, naïve, Übung: ½",
]
TEXTS = [
    "The capital of Tern Island is Saltmere.",
    " a space in front and one behind ",
    "   three, and   between",
    "one\ntwo\n\nthree\r\n\tfour",
    "\n",
    "a",
    " ",
    "燕鸥岛在哪里？",
    "👨‍👩‍👧 and 🇨🇳 e\u0301 café",
    "naïve ▁ and ▁▁ are signs of the vocabulary, <0x0A> and <unk> too",
    "ſ ﬁ ½ ² Ⅷ ٣ ৪ नमस्ते สวัสดี \u200b\ufeff",
    "{BOS}{TURN}user\nHow high is the tide?{END}\n{TURN}model\n2.5 metres.{END}\n",
    "{BOS}{TURN} user {END}{END}  {TURN}\n\nx",
]


class Shape:
    """The parts of a tokenizer that its family has in common."""

    def __init__(self, bos: str, eos: str, turn: str, end: str, others: list[str], first: list[str]) -> None:
        self.bos, self.eos, self.turn, self.end, self.others, self.first = bos, eos, turn, end, others, first
        self.normalizer: normalizers.Normalizer | None = None
        self.pre_tokenizer: pre_tokenizers.PreTokenizer | None = None
        self.strips = True
        self.rstrip: list[str] = []
        self.plain: list[str] = []


def shapes() -> dict[str, Shape]:
    """The tokenizers by name."""
    gemma = Shape("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", [], ["<pad>", "<eos>", "<bos>", "<unk>"])
    gemma.normalizer = normalizers.Replace(" ", "▁")
    gemma.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    gemma.strips = False
    gemma.plain = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<table>"]
    start = ["<unk>", "<s>", "</s>"]
    llama = Shape("<s>", "</s>", "<s>", "</s>", [], start)
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tools = ["[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
    mistral = Shape("<s>", "</s>", "[INST]", "[/INST]", tools, start)
    mistral.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    phi3 = Shape("<s>", "<|endoftext|>", "<|user|>", "<|end|>", ["<|assistant|>", "<|system|>"], start)
    phi3.normalizer = llama.normalizer
    phi3.rstrip = ["</s>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    return {"gemma": gemma, "llama": llama, "mistral": mistral, "phi3": phi3}


def learned(shape: Shape) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary with merges: special tokens, bytes, then pieces learned from the sentences."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=420, min_frequency=1, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    first = shape.first + [f"<0x{byte:02X}>" for byte in range(256)] + shape.plain
    pieces = [piece for piece, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    # SentencePiece covers most characters but not all; a line break is a byte, or Gemma's added token.
    rare = {"\n", "\t", "½", "燕", "鸥"} - set(shape.plain)
    pieces = [piece for piece in pieces if piece not in first and not rare & set(piece)]
    vocabulary = {piece: index for index, piece in enumerate(first + pieces)}
    merges = [tuple(merge) for merge in model["merges"]]
    merges = [merge for merge in merges if all(part in vocabulary for part in (*merge, "".join(merge)))]
    return vocabulary, merges


def built(shape: Shape) -> Tokenizer:
    """The tokenizer of a shape."""
    vocabulary, merges = learned(shape)
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    if shape.normalizer:
        tokenizer.normalizer = shape.normalizer
    if shape.pre_tokenizer:
        tokenizer.pre_tokenizer = shape.pre_tokenizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if shape.strips else []))
    special = dict.fromkeys([*shape.first, shape.turn, shape.end, shape.eos, *shape.others])
    tokenizer.add_special_tokens(
        [AddedToken(token, rstrip=token in shape.rstrip, normalized=False, special=True) for token in special]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in shape.plain])
    bos = (shape.bos, tokenizer.token_to_id(shape.bos))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{shape.bos}:0 $A:0", pair=f"{shape.bos}:0 $A:0 {shape.bos}:1 $B:1", special_tokens=[bos]
    )
    return tokenizer


def golden(tokenizer: Tokenizer, text: str) -> dict:
    """One text, there and back."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    stream, pieces = decoders.DecodeStream(skip_special_tokens=True), []
    for token in ids:
        pieces.append(stream.step(tokenizer, token) or "")
    return {
        "text": text,
        "ids": ids,
        "document": tokenizer.encode(text).ids,
        "decoded": tokenizer.decode(ids),
        "pieces": pieces,
    }


def main() -> None:
    for name, shape in shapes().items():
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = built(shape)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        names = {"bos_token": shape.bos, "eos_token": shape.eos, "unk_token": "<unk>"}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True} | names
        (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
        marks = {"{BOS}": shape.bos, "{TURN}": shape.turn, "{END}": shape.end}
        texts = TEXTS
        for mark, token in marks.items():
            texts = [text.replace(mark, token) for text in texts]
        cases = [golden(tokenizer, text) for text in texts]
        reread = PreTrainedTokenizerFast.from_pretrained(folder)
        for case in cases:
            assert reread(case["text"], add_special_tokens=False)["input_ids"] == case["ids"], case
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        (folder / "golden.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        print(folder, tokenizer.get_vocab_size())


if __name__ == "__main__":
    main()
