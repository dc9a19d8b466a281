"""One pair in the forms that trainers read: TRL, LLaMA-Factory, ms-swift and the official SeVa code.

In: a row of PAIR_SCHEMA, one of its rejected responses, and the image. Out: plain data. A pair with several rejected
responses becomes several rows.
"""

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def trl(row: Row, rejected: Row, image: bytes) -> dict[str, Any]:
    """The row of a preference data set of Hugging Face, with conversations and a list of images."""
    return {
        "images": [{"bytes": image, "path": None}],
        "prompt": message("user", row["question"]),
        "chosen": message("assistant", row["chosen"]),
        "rejected": message("assistant", rejected["text"]),
        "prompt_id": row["prompt_id"],
        "image_id": row["image_id"],
        "source": row["source"],
        "view": rejected["view"],
    }


def llama_factory(row: Row, rejected: Row, image: str) -> dict[str, Any]:
    """A row of LLaMA-Factory's ranking data in ShareGPT's form. `image` is a path below its `media_dir`."""
    return {
        "conversations": [{"from": "human", "value": f"<image>{row['question']}"}],
        "chosen": {"from": "gpt", "value": row["chosen"]},
        "rejected": {"from": "gpt", "value": rejected["text"]},
        "images": [image],
    }


DATASET_INFO: Mapping[str, Any] = {
    "seva": {
        "file_name": "llama_factory.jsonl",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
    }
}
"""LLaMA-Factory's `dataset_info.json`, which names the data set `seva`."""


def swift(row: Row, rejected: Row, image: str) -> dict[str, Any]:
    """A row of ms-swift's data for RLHF. `image` is a path below `ROOT_IMAGE_DIR`."""
    return {
        "messages": message("user", f"<image>{row['question']}") + message("assistant", row["chosen"]),
        "rejected_response": rejected["text"],
        "images": [image],
    }


def official(row: Row, rejected: Row, image: str) -> dict[str, Any]:
    """A row of the official SeVa JSON. `image` is a path below the image folder that its training is given.

    Source: Kevinz-code/SeVa@d9284ff, data/step3/make_pair_textvqa.py and seva/train_dpo_ours.py.
    """
    return {"chosen": row["chosen"], "reject": rejected["text"], "question": row["question"], "image_id": image}


def message(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]
