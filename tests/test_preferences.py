"""The batch of DPO: its tokens, masks and pixels in both layouts, and that training's loss on it is the formula's."""

import io
import math
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
import trl
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from seva_ray.core.records import PAIR_SCHEMA, table
from seva_ray.dpo import token_logps
from seva_ray.dpo.batch import NOTHING, Branch, PreferenceCollator, responses_of
from seva_ray.dpo.config import Train
from seva_ray.dpo.logps import attention_mask, response_logps, summed
from seva_ray.dpo.policy import Lora, freeze_all_but_language, load_model
from seva_ray.stages.training.saving import save_whole
from seva_ray.stages.training.trainer import PreferenceTrainer
from seva_ray.toy.model import IMAGE, VOCABULARY
from seva_ray.toy.world import make_scene, render
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import MAX_PIXELS
from seva_ray.vlm.rows import Row
from seva_ray.vlm.views import Viewer
from tests import llava_by_hand
from tests.preference_trainer import preference_trainer
from tests.processors import llama_style

BETA = 0.2
LORA = Lora(rank=4, alpha=8)

ANSWERS = [
    # question, chosen, rejected; the last answer was cut at the token limit and so has no end.
    ("how many objects are there ?", "three </s>", "two </s>"),
    ("what color is the ring ?", "red </s>", "the ring is blue </s>"),
    ("is there a red ring ?", "yes there is </s>", "no no no no no no", "there is </s>"),
]


@pytest.fixture(scope="module")
def encoder(toy_model) -> Encoder:
    return Encoder(toy_model)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    """Three pairs as training sees them; the last has two rejected responses."""
    rows = []
    for number, (question, chosen, *rejected) in enumerate(ANSWERS):
        file = io.BytesIO()
        Image.fromarray(render(make_scene(7, "test", number))).save(file, "PNG")
        row: dict[str, Any] = {"prompt_id": f"p{number}", "image_id": f"i{number}", "source": "toy"}
        row |= {"image_bytes": file.getvalue(), "question": question, "chosen": chosen}
        row |= {"chosen_token_ids": tokens(chosen)}
        row |= {"rejected": [{"view": "moco", "text": text, "token_ids": tokens(text)} for text in rejected]}
        rows.append(row)
    return table(rows, PAIR_SCHEMA).to_pylist()


def tokens(text: str) -> list[int]:
    return [VOCABULARY.index(word) for word in text.split()]


@pytest.fixture(scope="module")
def viewer(encoder) -> Viewer:
    return Viewer(encoder=encoder, image_root=None, max_pixels=MAX_PIXELS)


# The batch


def parts(batch: dict[str, torch.Tensor], row: int) -> dict[int, tuple[list[int], list[int]]]:
    """Branch -> its tokens and their positions."""
    found = {}
    for branch in set(batch["branch"][row].tolist()) - {NOTHING}:
        places = batch["branch"][row] == branch
        found[branch] = batch["input_ids"][row][places].tolist(), batch["position_ids"][row][places].tolist()
    return found


def test_a_plain_row_is_prompt_and_response(viewer, encoder, pairs):
    batch = PreferenceCollator(viewer=viewer, packed=False)(pairs)
    expected = [(pair, response) for pair in pairs for response in responses_of(pair)]
    assert len(batch["input_ids"]) == len(expected) == 7
    for row, (pair, response) in enumerate(expected):
        prompt = llava_by_hand.token_ids(encoder, pair["question"])
        found = parts(batch, row)
        assert found[0][0] + found[1][0] == prompt + list(response)
        assert found[0][1] + found[1][1] == list(range(len(prompt + list(response))))
        assert prompt.count(IMAGE) == llava_by_hand.num_image_tokens(encoder)


def test_questions_lose_their_outer_white_space_only_if_that_is_asked_for(viewer, pairs, monkeypatch):
    asked, raw = list[str](), viewer.encoder.raw

    def noting(question: str, image: Any) -> Any:
        asked.append(question)
        return raw(question, image)

    monkeypatch.setattr(viewer.encoder, "raw", noting)
    spaced = [pair | {"question": f" {pair['question']} "} for pair in pairs[:1]]
    for one in (viewer, replace(viewer, strip_questions=True)):
        PreferenceCollator(viewer=one)(spaced)
    assert asked == [f" {pairs[0]['question']} ", pairs[0]["question"]]


def test_a_packed_row_is_the_prompt_once_and_each_response_behind_its_last_token(viewer, encoder, pairs):
    batch = PreferenceCollator(viewer=viewer)(pairs)
    assert len(batch["input_ids"]) == len(batch["pixel_values"]) == len(pairs)
    for row, pair in enumerate(pairs):
        prompt = llava_by_hand.token_ids(encoder, pair["question"])
        found = parts(batch, row)
        assert found.pop(0) == (prompt[:-1], list(range(len(prompt) - 1)))
        assert [ids for ids, _ in found.values()] == [[prompt[-1], *response] for response in responses_of(pair)]
        for ids, positions in found.values():
            assert positions == list(range(len(prompt) - 1, len(prompt) - 1 + len(ids)))


def test_a_row_of_one_image_has_the_start_of_its_prompts_once_and_the_rest_before_each_response(viewer, encoder, pairs):
    about_one = [pair | {"image_bytes": pairs[0]["image_bytes"]} for pair in pairs]
    batch = PreferenceCollator(viewer=viewer, by_image=True)([about_one[0], pairs[1], about_one[2]])
    assert len(batch["input_ids"]) == len(batch["pixel_values"]) == 2
    of_image, other = parts(batch, 0), parts(batch, 1)
    first, last = (llava_by_hand.token_ids(encoder, pairs[number]["question"]) for number in (0, 2))
    assert first != last
    common = next(place for place, ids in enumerate(zip(first, last, strict=False)) if len(set(ids)) > 1)
    assert of_image.pop(0) == (first[:common], list(range(common)))
    expected = [[*first[common:], *response] for response in responses_of(pairs[0])]
    expected += [[*last[common:], *response] for response in responses_of(pairs[2])]
    assert list(of_image.values()) == [(ids, list(range(common, common + len(ids)))) for ids in expected]
    alone = parts(PreferenceCollator(viewer=viewer)(pairs), 1)
    assert other == alone
    targets = batch["input_ids"][:, -batch["slot"].shape[1] :]
    scored = [targets[batch["slot"] == slot].tolist() for slot in range(9)]
    assert scored == [list(response) for pair in pairs for response in (*responses_of(pair), [])][:9]


def test_prompts_that_differ_before_their_image_have_rows_of_their_own(viewer):
    def rows(*prompts: list[int]) -> list[list[int]]:
        asked = [Row(ids=ids, num_image_tokens=1) for ids in prompts]
        row = [Branch(slot=slot, prompt=asked[slot // 2], response=[9]) for slot in range(4)]
        collate = PreferenceCollator(viewer=viewer, by_image=True)
        return [[branch.slot for branch in part] for part in collate.with_whole_image(row)]

    assert rows([1, IMAGE, 5, 7], [1, IMAGE, 6, 7]) == [[0, 1, 2, 3]]
    assert rows([1, 5, IMAGE, 7], [1, 6, IMAGE, 7]) == [[0, 1], [2, 3]]
    assert rows([1, 5, 7, IMAGE], [1, 5, 7, IMAGE]) == [[0, 1], [2, 3]], "the last token comes before each response"


@pytest.mark.parametrize("packed", [True, False])
def test_exactly_the_response_tokens_are_scored_each_for_its_own_response(viewer, pairs, packed):
    batch = PreferenceCollator(viewer=viewer, packed=packed)(pairs)
    targets = batch["input_ids"][:, -batch["slot"].shape[1] :]
    scored = [targets[batch["slot"] == slot].tolist() for slot in range(batch["num_tokens"].numel())]
    expected = [[*responses_of(pair), *[[]] * (3 - len(responses_of(pair)))] for pair in pairs]
    assert scored == [list(response) for row in expected for response in row]
    assert batch["num_tokens"].tolist() == [[len(response) for response in row] for row in expected]


def test_a_response_sees_the_prompt_and_itself_only(viewer, pairs):
    batch = PreferenceCollator(viewer=viewer)(pairs)
    branch, mask = batch["branch"], attention_mask(batch["branch"])[:, 0]
    for row in range(len(pairs)):
        for query in range(branch.shape[1]):
            seen = [key for key in range(branch.shape[1]) if mask[row, query, key]]
            assert query in seen, "a row of the mask that allows nothing would give NaN"
            if branch[row, query] == NOTHING:
                continue
            assert max(seen) == query
            assert set(branch[row, seen].tolist()) <= {0, int(branch[row, query])}
            own = (branch[row, : query + 1] == branch[row, query]) | (branch[row, : query + 1] == 0)
            assert len(seen) == own.sum()


def test_every_response_is_scored_on_the_clean_image(viewer, encoder, pairs):
    for packed, copies in ((True, [1, 1, 1]), (False, [2, 2, 3])):
        pixels = PreferenceCollator(viewer=viewer, packed=packed)(pairs)["pixel_values"]
        clean = [
            torch.from_numpy(llava_by_hand.pixels(encoder, Image.open(io.BytesIO(pair["image_bytes"])).convert("RGB")))
            for pair, count in zip(pairs, copies, strict=True)
            for _ in range(count)
        ]
        assert torch.equal(pixels, torch.stack(clean))


def test_the_stock_collator_would_train_on_other_tokens(tmp_path):
    """Why there is a collator of our own: under LLaVA's template TRL's has no <s>, no </s>, and stray spaces."""
    llama_style(legacy=True).save_pretrained(tmp_path)
    encoder = Encoder(str(tmp_path))
    question, answer, image = "What colour is the cat?", "The cat is black.", Image.new("RGB", (28, 28))
    joined = encoder.tokenizer(f"USER: <image>\n{question} ASSISTANT: {answer}</s>")["input_ids"]
    response = joined[len(llava_by_hand.prompt_ids(encoder, question)) :]

    file = io.BytesIO()
    image.save(file, "PNG")
    pair: dict[str, Any] = {"question": question, "image_path": None, "image_bytes": file.getvalue()}
    pair |= {"chosen_token_ids": response, "rejected": [{"token_ids": response}]}
    viewer = Viewer(encoder=encoder, image_root=None, max_pixels=MAX_PIXELS)
    ours = PreferenceCollator(viewer=viewer, packed=False)([pair])["input_ids"][0].tolist()
    assert ours == llava_by_hand.expand(encoder, joined)

    answers = [{"role": "assistant", "content": answer}]
    example = {"images": [image], "prompt": [{"role": "user", "content": question}]}
    example |= {"chosen": answers, "rejected": answers}
    stock = DataCollatorForVisionPreference(encoder.processor)([example])["input_ids"][0].tolist()
    first, last, space = encoder.tokenizer.convert_tokens_to_ids(["<s>", "</s>", "▁"])
    assert (ours[0], ours[-1]) == (first, last)
    assert first not in stock
    assert last not in stock
    assert stock[-len(response) - 1 :] == [space, *response[:-1], space]


# Log-probabilities


def random_rows(pairs: list[dict[str, Any]], seed: int, number: int) -> list[dict[str, Any]]:
    """Rows with random lengths and numbers of rejected responses."""
    random = np.random.default_rng(seed)

    def response() -> list[int]:
        return random.integers(5, len(VOCABULARY), random.integers(1, 30)).tolist()

    return [
        pairs[place % len(pairs)]
        | {
            "chosen_token_ids": response(),
            "rejected": [{"token_ids": response()} for _ in range(random.integers(1, 5))],
        }
        for place in range(number)
    ]


def logps_and_gradients(model: Any, viewer: Viewer, rows: Any, packed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the responses there are, and the gradient of a weighted sum of them."""
    batch = PreferenceCollator(viewer=viewer, packed=packed)(rows)
    batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
    model.zero_grad()
    logps = response_logps(model, batch)
    (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum().backward()
    grads = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    return logps.detach()[batch["num_tokens"] > 0], grads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1])
def test_both_layouts_give_the_same_log_probabilities_and_gradients(toy_model, viewer, pairs, dtype, seed):
    """Over random lengths, numbers of rejected responses and padding."""
    rows = random_rows(pairs, seed, 5)
    model = load_model(toy_model, "float32").to(dtype)
    (packed, packed_grads), (plain, plain_grads) = (
        logps_and_gradients(model, viewer, rows, packed) for packed in (True, False)
    )
    assert len(packed) == sum(1 + len(row["rejected"]) for row in rows)
    assert (packed < -1).all()
    torch.testing.assert_close(packed, plain, rtol=1e-6, atol=1e-4)
    assert (packed_grads - plain_grads).norm() < (1e-5 if dtype == torch.float32 else 1e-6) * plain_grads.norm()


def test_a_trained_head_gives_the_same_without_all_logits_and_is_left_as_it_was(toy_model, viewer, pairs, monkeypatch):
    rows = random_rows(pairs, 0, 4)
    model = load_model(toy_model, "float32").double()
    freeze_all_but_language(model)
    shapes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape)))
    wanted, wanted_grads = logps_and_gradients(model, viewer, rows, packed=True)
    monkeypatch.setattr(token_logps, "WHOLE_BYTES", 0)
    monkeypatch.setitem(token_logps.CHUNK_BYTES, "cpu", 4 * model.config.text_config.vocab_size * 3)
    found, grads = logps_and_gradients(model, viewer, rows, packed=True)
    assert [len(shape) for shape in shapes] == [3, 1], "the second time the head gave log-probabilities"
    torch.testing.assert_close(found, wanted.double(), rtol=1e-6, atol=0)  # all logits are rounded to float32
    assert (grads - wanted_grads).norm() < 1e-6 * wanted_grads.norm()
    assert "forward" not in vars(model.lm_head)


def test_in_bfloat16_with_gradient_checkpointing_neither_layout_is_farther_from_the_truth(toy_model, viewer, pairs):
    """The truth: the same weights in float32. Over some sixty responses an error's size is known to a tenth, and so
    the ratio of two to a seventh; the factor allows three times that. With another number of threads it is another."""
    rows = random_rows(pairs, 0, 16)
    exact = load_model(toy_model, "bfloat16").float()
    true_logps, true_grads = logps_and_gradients(exact, viewer, rows, packed=False)
    model = load_model(toy_model, "bfloat16").train()
    model.gradient_checkpointing_enable()
    layers = model.model.language_model.layers
    passes: list[int] = []
    layers[0].self_attn.register_forward_hook(lambda *arguments: passes.append(1))
    errors = []
    for packed in (True, False):
        passes.clear()
        logps, grads = logps_and_gradients(model, viewer, rows, packed)
        assert len(passes) == 2, "activations are not computed again"
        off = (logps - true_logps).norm() / true_logps.norm(), (grads - true_grads).norm() / true_grads.norm()
        errors.append(torch.stack(off))
    assert ((errors[0] / errors[1]).log().abs() < np.log(1.6)).all()
    assert (torch.stack(errors) > 1e-5).all(), "it was computed in float32"
    logps_off, grads_off = torch.stack(errors).T
    assert (logps_off < 2**-9).all(), "more than one rounding: they are summed in float32"
    assert (grads_off < 0.03).all()


def test_log_probabilities_of_long_responses_are_added_up_exactly():
    random = torch.Generator().manual_seed(0)
    tokens = -10 * torch.rand(3000, generator=random)
    slot = torch.randint(3, (3000,), generator=random)
    wanted = torch.tensor([math.fsum(tokens[slot == number].tolist()) for number in range(3)])
    assert torch.equal(summed(tokens, slot, 3, exact=True), wanted)
    assert (summed(tokens, slot, 3, exact=False) - wanted).abs().max() > 1e-3


def test_logits_are_computed_where_responses_are_and_nowhere_else(toy_model, viewer, pairs):
    model, widths = load_model(toy_model, "float32"), []
    model.lm_head.register_forward_hook(lambda module, args, output: widths.append(tuple(output.shape[:2])))
    batch = PreferenceCollator(viewer=viewer)(pairs)
    response_logps(model, batch)
    longest = max(sum(1 + len(response) for response in responses_of(pair)) for pair in pairs)
    assert widths == [(len(pairs), longest)]


def test_trl_itself_takes_no_reference_column_for_images(toy_model, encoder, pairs, tmp_path):
    """Why reference log-probabilities are a stage of ours."""
    model = load_model(toy_model, "float32")
    with pytest.raises(ValueError, match=r"precompute_ref_log_probs=True.* is not supported for vision"):
        trl.DPOTrainer(
            model=model,
            args=trl.DPOConfig(
                output_dir=str(tmp_path), precompute_ref_log_probs=True, bf16=False, use_cpu=True, report_to="none"
            ),
            train_dataset=datasets.Dataset(pa.Table.from_pylist([pair | {"images": None} for pair in pairs])),
            processing_class=encoder.processor,
            peft_config=LORA.peft(model),
        )


@pytest.mark.parametrize("full", [True, False])
def test_what_is_trained_and_its_gradients_are_float32_without_deepspeed_too(
    toy_model, encoder, viewer, pairs, tmp_path, full
):
    """In bfloat16, updates of 1e-6 and sums of many gradients would be rounded away."""
    policy = load_model(toy_model, "bfloat16")
    if full:
        freeze_all_but_language(policy, exact=True)
    rows = [pair | {"ref_logps": [-9.0] * (1 + len(pair["rejected"])), "weight": 1.0} for pair in pairs]
    config, collate = Train(full=full, zero_stage=0, lora=LORA), PreferenceCollator(viewer=viewer)
    trainer = preference_trainer(
        config, policy, encoder, rows, collate, str(tmp_path), bf16=True, gradient_checkpointing=True
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model, collate(rows))
    weights = list(trainer.model.parameters())
    assert {weight.dtype for weight in weights if not weight.requires_grad} == {torch.bfloat16}
    trained = [weight for weight in weights if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    assert {weight.grad.dtype for weight in trained if weight.grad is not None} == {torch.float32}
    assert any(weight.grad is not None and weight.grad.any() for weight in trained)
    if full:
        directory = save_whole(trainer, toy_model)
        saved = load_file(f"{directory}/model.safetensors")
        assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}


# The loss


@pytest.fixture(scope="module")
def trainer(toy_model, encoder, viewer, pairs, tmp_path_factory) -> PreferenceTrainer:
    """The train stage's trainer, without DeepSpeed. Its adapter is not the start's, where all losses are log 2."""
    start = load_model(toy_model, "float32")
    with torch.no_grad():
        reference = response_logps(start, PreferenceCollator(viewer=viewer)(pairs)).tolist()
    rows = [
        pair | {"ref_logps": logps[: 1 + len(pair["rejected"])], "weight": 1.0}
        for pair, logps in zip(pairs, reference, strict=True)
    ]
    policy = load_model(toy_model, "float32")
    trainer = preference_trainer(
        Train(beta=BETA, lora=LORA),
        policy,
        encoder,
        rows,
        PreferenceCollator(viewer=viewer),
        str(tmp_path_factory.mktemp("trainer")),
        per_device_train_batch_size=len(pairs),
        gradient_checkpointing=False,
    )
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=random))
    return trainer


def exact_logps(model: Any, weights: dict[str, torch.Tensor], ids: list[int], num_prompt: int, pixels: Any) -> Any:
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
        prompt = llava_by_hand.token_ids(encoder, pair["question"])
        image = Image.open(io.BytesIO(pair["image_bytes"])).convert("RGB")
        pixels = torch.from_numpy(llava_by_hand.pixels(encoder, image))
        chosen, *rejected = responses_of(pair)
        of_pair = []
        for response in rejected:
            policy, reference = (
                exact_logps(model, weights, prompt + list(chosen), len(prompt), pixels)
                - exact_logps(model, weights, prompt + list(response), len(prompt), pixels)
                for weights in (merged, {})
            )
            of_pair.append(-logsigmoid(BETA * (policy - reference.detach())))
        losses.append(torch.stack(of_pair).mean())
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
