"""Make the folder of `git-tiny-random`: GIT's architecture at 128 pixels with a small WordPiece vocabulary, no weights.

    python tools/make_tiny_base.py

The vocabulary is learnt from phantom reports and mini-reports; every printable ASCII character is in it, alone and as a
continuation, so that it can spell any English text. The weights are drawn from a seed when the model is loaded.
"""

import string
import tempfile
from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizer, CLIPImageProcessor, GitConfig, GitProcessor

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import make_archive
from cxr_ft.data.reports import mini_report
from cxr_ft.model.bases.git import SEED_KEY
from cxr_ft.model.find import SHIPPED

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


def main() -> None:
    """Write the folder."""
    vocab = vocabulary(corpus(), size=1500)
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
    folder = SHIPPED / "git-tiny-random"
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    print(f"{folder.name}: {len(vocab)} word pieces, {sum(p.stat().st_size for p in folder.iterdir())} bytes")


if __name__ == "__main__":
    main()
