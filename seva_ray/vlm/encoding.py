"""From (image, question) to exactly what the model reads: a row, which the model's own processor makes.

Generation and training share this file, so both see the same tokens and the same pixels. The text comes from the chat
template of the processor, and images are preprocessed by the PIL backend (the torchvision backend differs by up to
0.015).
"""

import copy
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seva_ray.augmentations import parse_view
from seva_ray.core.errors import InputError, is_of_the_machine, line_of
from seva_ray.core.seeds import generator_at
from seva_ray.private.transformers import arguments_of_forward, settings_of_every_call
from seva_ray.vlm.image_options import grids_within, made_smaller, options_of, settings_of, size_within
from seva_ray.vlm.images import pad_to_square
from seva_ray.vlm.levels import drawn_at_random, exact_table, looked_up, shrunk, size_of_squares
from seva_ray.vlm.one_image import OneImage, as_arrays
from seva_ray.vlm.processed import lacking, processed_batch
from seva_ray.vlm.rows import MM_TYPES, PIXELS, Copies, Row, axes_of, copies_in, pixels_in, with_pixels
from seva_ray.vlm.template_check import filled_in

PLAIN_SIZE = (224, 224)
"""Width and height of the image that shows how a processor's output looks, in px."""

MADE_FOR_A_BATCH = ("input_ids", "attention_mask", "labels")
"""What a processor makes beside the arrays of a row."""


def image_tokens(processor: Any, directory: str) -> list[int]:
    """The tokens that may stand for the features of an image: the processor's, and that of config.json. In some
    families, such as Ovis2, the processor's only marks the place of an image."""
    file = Path(directory, "config.json")
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = [processor.image_token_ids[0], config.get("image_token_id"), config.get("image_token_index")]
    found.append(processor.tokenizer.convert_tokens_to_ids(processor.image_token))
    return list(dict.fromkeys(token for token in found if token is not None))


def placeholders_of(processor: Any, tokens: Sequence[int]) -> list[str]:
    """The words of a prompt that stand for an image, a video or a sound. `tokens`: those of an image."""
    names = ("image_token", "image_placeholder_token", "video_token", "audio_token")
    words = [str(word) for word in (getattr(processor, name, None) for name in names) if word]
    return list(dict.fromkeys([*words, *(word for word in processor.tokenizer.convert_ids_to_tokens(tokens) if word)]))


class Encoder:
    """The processor of one model directory: its chat template, tokenizer and image processor."""

    def __init__(self, directory: str, system: str = "", image_options: str = ""):
        """`system` is put before the question if it is not empty. `image_options`: other settings of the image
        processor, as JSON. Raises: InputError for an unusable processor, or for settings that it does not have."""
        from transformers import AutoImageProcessor, AutoProcessor  # takes seconds, which `--help` must not wait for

        self.directory, self.system = directory, system
        settings = options_of(image_options)
        try:
            self.processor = AutoProcessor.from_pretrained(directory, trust_remote_code=False)
            if getattr(self.processor, "image_processor", None) is None:
                raise InputError("it has no image processor")
            load = partial(AutoImageProcessor.from_pretrained, directory, backend="pil", trust_remote_code=False)
            self.image_processor = load()
            self.image_settings = settings_of(self.image_processor, settings)
            self.grids = grids_within(self.image_processor, settings)
            if self.image_settings:
                # Other settings may need those that its processor passes in every call.
                self.image_processor = load(**settings_of_every_call(self.processor) | self.image_settings)
            self.tokenizer = self.processor.tokenizer
            if getattr(self.processor, "chat_template", None) is None:
                raise InputError("it has no chat template, which belongs into chat_template.jinja")
            mean = getattr(self.image_processor, "image_mean", None) or (0.5, 0.5, 0.5)
            red, green, blue = (int(channel * 255) for channel in mean)
            self.background = (red, green, blue)
            self.reader = copy.copy(self.processor)  # the processor itself is saved with a model that is trained
            self.reader.image_processor = OneImage(
                self.image_processor, self.as_shrunk, self.table is not None, self.image_settings
            )
            tokens = image_tokens(self.processor, directory)
            self.placeholders = placeholders_of(self.processor, tokens)
            if self.shows_image() != 1:
                raise InputError("its chat template does not show the image")
            self.image_token_id = tokens[0]
            plain = self.row("?", Image.new("RGB", PLAIN_SIZE))
            self.image_token_id = max(tokens, key=list(plain.ids).count)
            if self.lacks_types(plain):
                self.asked = {"return_mm_token_type_ids": True}
            self.features = dict(plain.features)
            self.frames: int = getattr(self.image_processor, "temporal_patch_size", 1)
            self.copies = copies_in(self.row("?", drawn_at_random(*PLAIN_SIZE)).features[PIXELS], self.frames)
            self.last_row = ()
        except Exception as error:  # broken files and templates raise all kinds of errors
            raise InputError(f"model {directory}: processor cannot be used ({line_of(error)}){lacking(self)}") from None
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = 0 if pad is None else pad
        """Token that fills up a batch. It is masked, so any token would do."""

    asked: Mapping[str, bool] = {}
    """What the processor is asked for in every call."""

    image_token_id: int
    """The token of which a prompt has as many as the model makes features of an image."""

    last_row: tuple[Any, ...] = ()
    """A question, its image and the row that came of them: several views of a prompt may have the same row."""

    last_looked_up: tuple[Callable[[], np.ndarray | None], np.ndarray] = (lambda: None, np.empty(0))
    """The levels that were looked up last, and the pixels that came of them."""

    copies: Copies | None
    """How the processor holds each pixel several times; None: once."""

    features: Mapping[str, np.ndarray]
    """The features of a plain image: their names, types and shapes are those that the model reads."""

    def normalised(self, levels: np.ndarray) -> np.ndarray:
        """8-bit levels of an RGB image, uint8 (H, W, 3), as the processor normalises pixels: float32 (3, H, W)."""
        return ((levels.astype(np.float32) / 255 - self.mean) / self.std).transpose(2, 0, 1)

    def levels(self, pixels: np.ndarray) -> np.ndarray:
        """The inverse of `normalised`, cut off at black and white."""
        levels = (pixels.transpose(1, 2, 0) * self.std + self.mean) * 255
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)

    @property
    def mean(self) -> np.ndarray:
        return np.array(getattr(self.image_processor, "image_mean", None) or (0.0,) * 3, np.float32)

    @property
    def std(self) -> np.ndarray:
        return np.array(getattr(self.image_processor, "image_std", None) or (1.0,) * 3, np.float32)

    def shows_image(self) -> int:
        """How often the chat template shows the image of a question."""
        with_image, messages = self.prompt_text("?"), self.messages("?")
        messages[-1]["content"][0] = {"type": "text", "text": ""}
        without = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        return with_image.count(self.processor.image_token) or int(with_image != without)

    def prompt_text(self, question: str) -> str:
        """The prompt up to where the response begins, with one image placeholder. Raises: InputError as `filled_in`."""
        return filled_in(self.processor, self.messages(question), question + self.system)

    def messages(self, question: str, **image: Any) -> list[dict[str, Any]]:
        """The conversation up to the response. `image`: what a processor that is to open the image itself is told."""
        content = [{"type": "image", **image}, {"type": "text", "text": question}]
        system = [{"role": "system", "content": [{"type": "text", "text": self.system}]}] if self.system else []
        return [*system, {"role": "user", "content": content}]

    def check_question(self, question: str) -> None:
        """Raises: InputError if the question itself contains a placeholder of an image or a video."""
        for name in self.placeholders:
            if name in question:
                raise InputError(f"question {question[:60]!r}: holds the image placeholder {name}")

    def has_bos(self, text: str) -> bool:
        """Whether the chat template has written BOS, which the tokenizer then must not do again."""
        return bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)

    def row(self, question: str, image: Image.Image) -> Row:
        """What the model's own processor makes of a question about an RGB image.

        Where the processor would cut off an image's sides, as LLaVA-1.5's does, the image is first padded to a square
        with the mean colour, as in SeVa (arXiv 2404.10501). Nothing else is done to it. Several questions about one
        image, one after the other, share its features.

        Raises: InputError if the question itself contains a placeholder, or if the processor cannot read the image.
        """
        return self.finished(self.raw(question, image))

    def raw(self, question: str, image: Image.Image) -> Row:
        """The row before its pixels are normalised: they are 8-bit levels, if the levels determine them exactly."""
        of_question, of_image, row = self.last_row or (None, None, None)
        if of_question != question or of_image is not image:
            row = self.read(question, image)
            self.last_row = question, image, row
        return row

    def read(self, question: str, image: Image.Image) -> Row:
        self.check_question(question)
        text = self.prompt_text(question)
        try:
            # As transformers does with a chat: otherwise the processor or its tokenizer decides.
            no_bos = {"add_special_tokens": False} if self.has_bos(text) else {}
            made = self.reader(text=[text], images=[image], **no_bos, **self.asked)
        except Exception as error:
            if is_of_the_machine(error):
                raise
            raise InputError(
                f"the model's processor cannot read an image of {image.width} x {image.height} px ({line_of(error)})"
            ) from None
        ids = np.asarray(made["input_ids"])
        arrays = {name: np.asarray(values) for name, values in made.items() if name not in MADE_FOR_A_BATCH}
        tokens = {name: values[0] for name, values in arrays.items() if values.shape == ids.shape}
        features = {name: values for name, values in arrays.items() if name not in tokens}
        token_ids = ids[0].tolist()
        return Row(
            ids=token_ids,
            num_image_tokens=token_ids.count(self.image_token_id),
            tokens=tokens,
            features=features,
            size=self.size_seen(image),
        )

    def finished(self, row: Row) -> Row:
        """The row as the model reads it: its pixels normalised, and its noise added. Rows of one image that come one
        after the other share what is made of its levels."""
        levels = row.features.get(PIXELS)
        if levels is not None and levels.dtype == np.uint8 and self.table is not None:
            of_last, pixels = self.last_looked_up
            if of_last() is not levels:
                pixels = looked_up(levels, self.table)
                self.last_looked_up = weakref.ref(levels), pixels
            row = replace(row, features={**row.features, PIXELS: pixels})
        if row.noise is None:
            return row
        augmentation, random = parse_view(row.noise.view), generator_at(row.noise.state)
        assert augmentation is not None, "the clean view has no noise"
        return replace(self.changed(row, lambda pixels: augmentation.pixels(pixels, random)), noise=None)

    def lacks_types(self, row: Row) -> bool:
        """Whether the model reads the types of its tokens, and its processor makes them only if it is asked."""
        if MM_TYPES in row.tokens or MM_TYPES not in getattr(self.processor, "model_input_names", ()):
            return False
        from transformers import AutoConfig

        return MM_TYPES in arguments_of_forward(AutoConfig.from_pretrained(self.directory))

    def changed(self, row: Row, change: Callable[[np.ndarray], np.ndarray]) -> Row:
        """The row after a change of its normalised pixels, which gets each of them once; see `with_pixels`."""
        return with_pixels(row, change, self.copies)

    @cached_property
    def axes(self) -> dict[str, int]:
        """The axes along which the processor joins the features of several images, by name, if not the first one."""
        wide, square = (
            ("?", drawn_at_random(2 * PLAIN_SIZE[0], height)) for height in (PLAIN_SIZE[1], 2 * PLAIN_SIZE[1])
        )
        return axes_of(*(processed_batch(self, chats) for chats in ([wide], [square], [wide, square])))

    def as_seen(self, image: Image.Image) -> Image.Image:
        """The image that the processor is given."""
        if self.grids:
            return made_smaller(image, self.grids, self.image_processor.resample)
        return pad_to_square(image, self.background) if self.crops else image

    def size_seen(self, image: Image.Image) -> tuple[int, int]:
        """Height and width of `as_seen`, in px."""
        side = max(image.size)
        width, height = size_within(self.grids, image.size) if self.grids else image.size
        return (side, side) if self.crops and not self.grids else (height, width)

    def as_shrunk(self, image: Image.Image) -> Image.Image:
        """The image that the processor is given, already at the size to which the processor would resize it. The
        processor would first copy it several times."""
        if self.side is None:
            return self.as_seen(image)
        return shrunk(image, self.background, self.side, self.image_processor.resample)

    @cached_property
    def side(self) -> tuple[int, int] | None:
        """The size to which the processor resizes every square; None if it does anything else with them."""
        return size_of_squares(self.image_processor, self.background) if self.crops and self.table is not None else None

    @cached_property
    def table(self) -> np.ndarray | None:
        """The normalised pixel of each level in each channel, float32 (3, 256); None if pixels cannot be made so."""
        return exact_table(self.image_processor, self.as_seen)

    @cached_property
    def crops(self) -> bool:
        """Whether the processor cuts off the sides of a wide image, so that it sees nothing of them."""
        wide = np.zeros((64, 192, 3), np.uint8)
        other = wide.copy()
        other[:, :16] = other[:, -16:] = 255

        def seen(pixels: np.ndarray) -> np.ndarray:
            shown = Image.fromarray(pixels)
            return pixels_in(as_arrays(lambda kind: self.image_processor(images=shown, return_tensors=kind)))

        return np.array_equal(seen(wide), seen(other))

    def first_token(self, answer: str) -> int:
        """The id of the token with which this answer begins."""
        ids: list[int] = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return ids[0]

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a response's token ids, without special tokens and without white space around it."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()
