"""Reads exported pairs with LLaMA-Factory's own loader, in its own environment; prints the rows as JSON.

python tests/clients/llama_factory_rows.py DIRECTORY
"""

import json
import os
import sys

os.environ["DISABLE_VERSION_CHECK"] = "1"  # it names versions of transformers that it was tested with

from llamafactory.data.loader import _get_merged_dataset
from llamafactory.hparams import DataArguments, ModelArguments
from transformers import Seq2SeqTrainingArguments

directory = sys.argv[1]
data = DataArguments(dataset="seva", dataset_dir=directory, media_dir=directory)
training = Seq2SeqTrainingArguments(output_dir=f"{directory}-unused", report_to=[], use_cpu=True)
rows = _get_merged_dataset(["seva"], ModelArguments(model_name_or_path="unused"), data, training, stage="rm")
print(json.dumps([{name: row[name] for name in ("_prompt", "_response", "_images")} for row in rows]))
