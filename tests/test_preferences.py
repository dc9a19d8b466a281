"""The batch of DPO: its tokens, masks and pixels, and that TRL's loss on it is the formula's."""

import io
from typing import Any

import datasets
import pytest
import torch
import trl
from PIL import Image
from torch.nn.functional import logsigmoid
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from seva_ray.encoding import Encoder
from seva_ray.images import MAX_PIXELS
from seva_ray.policy import Lora, load_model
from seva_ray.preferences import PreferenceCollator, pad
from seva_ray.records import PREFERENCE_SCHEMA, table
from seva_ray.stages.train import as_dataset
from seva_ray.toy.model import EOS, IMAGE, PAD, VOCABULARY
from seva_ray.toy.world import make_scene, render
from seva_ray.views import Viewer
from tests.processors import llama_style

BETA = 0.2
LORA = Lora(rank=4, alpha=8)

ANSWERS = [
    # question, chosen, rejected; the last answer was cut at the token limit and so has no end.
    ("how many objects are there ?", "three </s>", "two </s>"),
    ("what color is the ring ?", "red </s>", "the ring is blue </s>"),
    ("is there a red ring ?", "yes there is </s>", "no no no no no no"),
]


@pytest.fixture(scope="module")
def encoder(toy_model) -> Encoder:
    return Encoder(toy_model)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    rows = []
    for number, (question, chosen, rejected) in enumerate(ANSWERS):
        file = io.BytesIO()
        Image.fromarray(render(make_scene(7, "test", number))).save(file, "PNG")
        row: dict[str, Any] = {"prompt_id": f"p{number}", "image_id": f"i{number}", "source": "toy"}
        row |= {"image_bytes": file.getvalue(), "view": "diffusion-500", "question": question}
        row |= {"chosen": chosen, "rejected": rejected}
        for side, text in (("chosen", chosen), ("rejected", rejected)):
            row[f"{side}_token_ids"] = [VOCABULARY.index(word) for word in text.split()]
        rows.append(row)
    return table(rows, PREFERENCE_SCHEMA).to_pylist()


@pytest.fixture(scope="module")
def collator(encoder) -> PreferenceCollator:
    return PreferenceCollator(viewer=Viewer(encoder=encoder, image_root=None, max_pixels=MAX_PIXELS))


# The batch


def test_rows_are_padded_on_the_right():
    assert pad([[1, 2, 3], [4]], 9).tolist() == [[1, 2, 3], [4, 9, 9]]


def test_the_first_half_of_a_batch_is_chosen_and_the_second_rejected(collator, encoder, pairs):
    batch = collator(pairs)
    sides = [(pair, side) for side in ("chosen_token_ids", "rejected_token_ids") for pair in pairs]
    assert len(batch["input_ids"]) == 2 * len(pairs)
    for row, (pair, side) in enumerate(sides):
        prompt = encoder.expand(encoder.prompt_ids(pair["question"]))
        attended = batch["attention_mask"][row].bool()
        scored = batch["completion_mask"][row].bool()
        assert batch["input_ids"][row][attended].tolist() == prompt + pair[side]
        assert batch["input_ids"][row][scored].tolist() == pair[side]
        assert batch["input_ids"][row][~attended].unique().tolist() in ([PAD], [])
        assert attended.tolist() == sorted(attended.tolist(), reverse=True)
        assert prompt.count(IMAGE) == encoder.num_image_tokens


def test_every_tensor_of_a_batch_has_the_shape_that_it_says(collator, pairs):
    batch = collator(pairs)
    # <s> USER: <image> x 36, question, ASSISTANT:, response
    width = max(39 + len(pair["question"].split()) + len(pair["rejected_token_ids"]) for pair in pairs)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "input_ids": (6, width),
        "attention_mask": (6, width),
        "completion_mask": (6, width),
        "pixel_values": (6, 3, 48, 48),
    }
    assert batch["pixel_values"].dtype == torch.float32


def test_a_response_keeps_its_end_and_a_cut_one_gets_none(collator, pairs):
    batch = collator(pairs)
    last = [ids[mask.bool()][-1].item() for ids, mask in zip(batch["input_ids"], batch["completion_mask"])]
    assert [token == EOS for token in last] == [True, True, True, True, True, False]


def test_both_responses_are_scored_on_the_clean_image(collator, encoder, pairs):
    pixels = collator(pairs)["pixel_values"]
    image = Image.open(io.BytesIO(pairs[0]["image_bytes"])).convert("RGB")
    assert torch.equal(pixels[0], torch.from_numpy(encoder.pixels(image)))
    assert torch.equal(pixels[:3], pixels[3:])
    other = [pair | {"view": "diffusion-999"} for pair in pairs]
    assert torch.equal(collator(other)["pixel_values"], pixels)


def test_the_stock_collator_would_train_on_other_tokens(tmp_path):
    """Why there is a collator of our own: under LLaVA's template TRL's has no <s>, no </s>, and stray spaces."""
    llama_style(legacy=True).save_pretrained(tmp_path)
    encoder = Encoder(str(tmp_path))
    question, answer, image = "What colour is the cat?", "The cat is black.", Image.new("RGB", (28, 28))
    joined = encoder.tokenizer(f"USER: <image>\n{question} ASSISTANT: {answer}</s>")["input_ids"]
    response = joined[len(encoder.prompt_ids(question)) :]

    file = io.BytesIO()
    image.save(file, "PNG")
    pair = {"question": question, "image_path": None, "image_bytes": file.getvalue()}
    pair |= {"chosen_token_ids": response, "rejected_token_ids": response}
    viewer = Viewer(encoder=encoder, image_root=None, max_pixels=MAX_PIXELS)
    ours = PreferenceCollator(viewer=viewer)([pair])["input_ids"][0].tolist()
    assert ours == encoder.expand(joined)

    answers = [{"role": "assistant", "content": answer}]
    example = {"images": [image], "prompt": [{"role": "user", "content": question}]}
    example |= {"chosen": answers, "rejected": answers}
    stock = DataCollatorForVisionPreference(encoder.processor)([example])["input_ids"][0].tolist()
    first, last, space = encoder.tokenizer.convert_tokens_to_ids(["<s>", "</s>", "▁"])
    assert (ours[0], ours[-1]) == (first, last)
    assert first not in stock
    assert last not in stock
    assert stock[-len(response) - 1 :] == [space, *response[:-1], space]


# The loss


@pytest.fixture(scope="module")
def trainer(toy_model, encoder, pairs, collator, tmp_path_factory) -> trl.DPOTrainer:
    """As the train stage builds it, without DeepSpeed; its adapter is not the start's, where all losses are log 2."""
    trainer = trl.DPOTrainer(
        model=load_model(toy_model, "float32"),
        args=trl.DPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trainer")),
            beta=BETA,
            loss_type="sigmoid",
            per_device_train_batch_size=len(pairs),
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            max_length=None,
            remove_unused_columns=False,
            report_to="none",
        ),
        train_dataset=as_dataset(table(pairs, PREFERENCE_SCHEMA), 1, datasets),
        processing_class=encoder.processor,
        data_collator=collator,
        peft_config=LORA.peft(),
    )
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=random))
    return trainer


def response_logps(model: Any, weights: dict[str, torch.Tensor], ids: list[int], num_prompt: int, pixels: Any) -> Any:
    """Sum of the natural log-probabilities of all tokens after the prompt, float64; one row, no padding."""
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values": pixels[None].double(), "use_cache": False}
    logits = torch.func.functional_call(model, weights, kwargs=inputs).logits[0]
    steps = logits[num_prompt - 1 : -1].log_softmax(-1)
    return steps.gather(1, torch.tensor(ids[num_prompt:])[:, None]).sum()


def test_the_loss_and_its_gradients_are_those_of_the_formula(toy_model, encoder, pairs, trainer):
    """-log sigmoid(beta ((pi_c - pi_r) - (ref_c - ref_r))), mean over pairs, from scratch in float64.

    Source: DPO (arXiv 2305.18290) equation 7.
    """
    model = load_model(toy_model, "float64")
    adapter = {
        name.replace(".default", ""): parameter.detach().double().requires_grad_()
        for name, parameter in trainer.model.named_parameters()
        if "lora_" in name
    }
    merged = {}
    for name in adapter:
        if ".lora_A." in name:
            base = name.removeprefix("base_model.model.").replace(".lora_A", "")
            update = adapter[name.replace("lora_A", "lora_B")] @ adapter[name]
            merged[base] = model.get_parameter(base) + LORA.alpha / LORA.rank * update
    assert len(merged) == 7 * 3, "seven linears in each of three layers"

    losses = []
    for pair in pairs:
        prompt = encoder.expand(encoder.prompt_ids(pair["question"]))
        image = Image.open(io.BytesIO(pair["image_bytes"])).convert("RGB")
        pixels = torch.from_numpy(encoder.pixels(image))
        chosen, rejected = (prompt + pair[f"{side}_token_ids"] for side in ("chosen", "rejected"))
        policy, reference = (
            response_logps(model, weights, chosen, len(prompt), pixels)
            - response_logps(model, weights, rejected, len(prompt), pixels)
            for weights in (merged, {})
        )
        losses.append(-logsigmoid(BETA * (policy - reference.detach())))
    expected = torch.stack(losses).mean()
    expected.backward()

    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert abs(expected.item() - torch.log(torch.tensor(2.0)).item()) > 0.01, "the adapter does nothing"
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in trainer.model.named_parameters():
        if "lora_" in name:
            exact = adapter[name.replace(".default", "")].grad
            assert exact is not None
            torch.testing.assert_close(parameter.grad.double(), exact, atol=1e-5, rtol=1e-3)
        else:
            assert parameter.grad is None
