"""Make the folders of `git-tiny-random`, `bert-tiny-random` and `llama-tiny-random`: small models without weights.

    python tools/make_tiny_base.py [git] [bert] [llama]

GIT's architecture at 128 pixels, BERT's and Llama's. The vocabulary of all is GIT's: WordPiece, learnt
from phantom reports and mini-reports; every printable ASCII character is in it, alone and as a continuation, so that it
can spell any English text. The weights are drawn from a seed when the model is loaded.
"""

import string
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import BertWordPieceTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPImageProcessor,
    GitConfig,
    GitProcessor,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import make_archive
from cxr_ft.data.reports.text_columns import mini_report
from cxr_ft.model.assembly import SEED_KEY, SHIPPED

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
IMAGE_SIZE = 128


def corpus() -> list[str]:
    """Phantom reports, and the mini-report of each label's each value."""
    with tempfile.TemporaryDirectory() as folder:
        make_archive(Path(folder) / "archive", subjects=400, seed=2, size=64)
        reports = [path.read_text() for path in sorted(Path(folder).rglob("s9*.txt"))]
    minis = [mini_report({label: value}, "No Finding") for label in CHEXPERT_14 for value in (1.0, 0.0, -1.0)]
    return reports + 20 * minis


def vocabulary(texts: list[str], size: int) -> dict[str, int]:
    """Word pieces by frequency in `texts`; special tokens first, characters always."""
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(texts, vocab_size=size, min_frequency=3, special_tokens=SPECIAL, show_progress=False)
    letters = [c for c in string.printable.lower() if not c.isspace()]
    wanted = dict.fromkeys([*SPECIAL, *letters, *(f"##{c}" for c in letters), *sorted(tokenizer.get_vocab())])
    return {piece: i for i, piece in enumerate(wanted)}


def saved_vocabulary(folder: Path) -> dict[str, int]:
    """Word pieces of a folder's tokenizer."""
    vocab: dict[str, int] = BertTokenizer.from_pretrained(folder).get_vocab()
    return dict(sorted(vocab.items(), key=lambda item: item[1]))


class Saved(Protocol):
    """A tokenizer or processor of transformers."""

    def save_pretrained(self, save_directory: str) -> object:
        """Write it into a folder."""


#: Vocabulary -> a configuration, and a tokenizer or processor.
Maker = Callable[[dict[str, int]], tuple[PretrainedConfig, Saved]]


def git(vocab: dict[str, int]) -> tuple[PretrainedConfig, GitProcessor]:
    """GIT at 128 pixels."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = GitProcessor(
        CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size),
        BertTokenizer(vocab=vocab, model_input_names=["input_ids", "attention_mask"]),
    )
    shape = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 6}
    config = GitConfig(
        **shape,
        num_hidden_layers=3,
        vocab_size=len(vocab),
        max_position_embeddings=512,
        bos_token_id=vocab["[CLS]"],
        eos_token_id=vocab["[SEP]"],
        pad_token_id=vocab["[PAD]"],
        vision_config={**shape, "num_hidden_layers": 4, "image_size": IMAGE_SIZE, "patch_size": 16},
        **{SEED_KEY: 0},
    )
    return config, processor


def bert(vocab: dict[str, int]) -> tuple[PretrainedConfig, BertTokenizer]:
    """An encoder."""
    shape = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 4}
    config = BertConfig(**shape, vocab_size=len(vocab), pad_token_id=vocab["[PAD]"], **{SEED_KEY: 0})
    return config, BertTokenizer(vocab=vocab, model_input_names=["input_ids", "attention_mask"])


def llama(vocab: dict[str, int]) -> tuple[PretrainedConfig, PreTrainedTokenizerFast]:
    """A decoder: [CLS] begins a text and [SEP] ends it, which the tokenizer leaves to whoever writes one."""
    tokenizer = BertTokenizer(vocab=vocab).backend_tokenizer
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", vocab["[CLS]"])])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
    config = LlamaConfig(
        **shape,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(vocab),
        max_position_embeddings=512,
        bos_token_id=vocab["[CLS]"],
        eos_token_id=vocab["[SEP]"],
        pad_token_id=vocab["[PAD]"],
        **{SEED_KEY: 0},
    )
    return config, wrapped


def main(names: Sequence[str]) -> None:
    """Write the folders of the names given; of all where there are none."""
    makers: dict[str, Maker] = {"git": git, "bert": bert, "llama": llama}
    for name in names or makers:
        folders = {maker: SHIPPED / f"{maker}-tiny-random" for maker in makers}
        vocab = vocabulary(corpus(), size=1500) if name == "git" else saved_vocabulary(folders["git"])
        for part in makers[name](vocab):
            part.save_pretrained(str(folders[name]))
        size = sum(path.stat().st_size for path in folders[name].iterdir())
        print(f"{folders[name].name}: {len(vocab)} word pieces, {size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
