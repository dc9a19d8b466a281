"""Benchmarks: prompts and scores, one file each. To add one, write a dataclass and add a line to `Benchmarks`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from seva_ray.benchmarks.amber import AmberDiscriminative, AmberGenerative
from seva_ray.benchmarks.base import Benchmark, Tally
from seva_ray.benchmarks.chair import Chair
from seva_ray.benchmarks.choices import AskedAs
from seva_ray.benchmarks.files import check_image_root
from seva_ray.benchmarks.gqa import Gqa
from seva_ray.benchmarks.mmbench import MMBench
from seva_ray.benchmarks.mme import Mme
from seva_ray.benchmarks.pope import Pope, PopeProtocol
from seva_ray.benchmarks.scienceqa import ScienceQa
from seva_ray.benchmarks.seed_bench import SeedBench
from seva_ray.benchmarks.textvqa import TextVqa
from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.errors import ConfigError
from seva_ray.core.system_texts import LLAVA_TEXTS, LLAVA_V1, SystemName

SYSTEMS: Mapping[str, SystemName] = {"internvl": "internvl2_5", "llava-onevision": "qwen_1_5"}
"""The system texts with which families are asked whose own chat template writes none."""


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """The benchmarks to score models on, by the paths of their files. Paths may be URIs. Empty: not this benchmark."""

    toy_images: int = 0
    """Number of scenes in the toy world's test, for each camera: 0, or at least 3."""
    toy_cameras: tuple[Literal["deployment", "clean"], ...] = ("deployment", "clean")
    """The cameras that show the toy world's scenes."""
    toy_partners: bool = False
    """Ask about the missing partners of things, for toy bases with habits (toy.habit-steps)."""
    pope: str = ""
    """Directory of the published POPE files: coco_pope_random.json, ..._popular.json, ..._adversarial.json."""
    pope_images: str = ""
    """Directory of POPE's images (COCO val2014)."""
    pope_protocol: PopeProtocol = "seva"
    """`seva` asks only the question, and so does `smolvlm2`; `llava` also asks for a single word, and `qwen2-vl` for
    yes or no. Their numbers cannot be compared."""

    mmbench: str = ""
    """MMBench's TSV file of a split with answers, such as mmbench_dev_20230712.tsv."""
    mmbench_cn: str = ""
    """MMBench-CN's TSV file of a split with answers, such as mmbench_dev_cn_20231003.tsv."""
    mmbench_protocol: AskedAs = "llava"
    """How MMBench asks: as the family of this name is asked by its own evaluation. InternVL and LLaVA-OneVision are
    asked as LLaVA-1.5 is. Numbers of two protocols cannot be compared."""
    seed: str = ""
    """SEED-Bench.json. Only its image questions are asked."""
    seed_images: str = ""
    """Directory of SEED's images: SEED-Bench-image."""
    scienceqa: str = ""
    """Directory of ScienceQA's problems.json and pid_splits.json. The test split's problems with an image are asked."""
    scienceqa_images: str = ""
    """Directory of that split's images: images/test."""
    gqa: str = ""
    """GQA's testdev_balanced_questions.json."""
    gqa_images: str = ""
    """Directory of GQA's images."""
    textvqa: str = ""
    """TextVQA_0.5.1_val.json."""
    textvqa_images: str = ""
    """Directory of TextVQA's images: train_images."""
    textvqa_ocr: str = ""
    """LLaVA's llava_textvqa_val_v051_ocr.jsonl. Without it TextVQA is asked without OCR tokens: another protocol."""
    mme: str = ""
    """Directory MME_Benchmark_release_version, with images and questions of all its tasks."""
    chair: str = ""
    """Directory of COCO's instances_val2014.json and captions_val2014.json, for CHAIR."""
    chair_images: str = ""
    """Directory of COCO's val2014 images."""
    chair_synonyms: str = ""
    """synonyms.txt of the published CHAIR tool."""
    chair_size: int = 500
    """Number of images that CHAIR asks to describe."""
    chair_protocol: Literal["exact-words", "chair-original"] = "exact-words"
    """`exact-words` finds every object word; `chair-original` finds what the published tool finds, with its errors."""
    amber: str = ""
    """Directory `data` of AMBER."""
    amber_images: str = ""
    """Directory of AMBER's images."""
    amber_protocol: Literal["llava", "amber-original"] = "llava"
    """AMBER's yes/no questions: `llava` takes the first word of an answer, `amber-original` exactly Yes or No, as the
    published script does."""

    asked_as: Literal[AskedAs, "llava-onevision"] = "llava"
    """How SEED, ScienceQA, GQA, TextVQA and MME ask: as the family of this name is asked by its own evaluation. With it
    comes the system text of that evaluation for all benchmarks. LLaVA-OneVision is asked as LLaVA-1.5 is, with another
    system text."""
    system: Literal["source", "generation"] = "source"
    """`source` asks each benchmark with the system text of its published script: LLaVA's vicuna_v1, and llava_v1 for
    POPE by SeVa's protocol; see `asked_as` for other families. Names of benchmarks say it. `generation` asks all of
    them with `generate.system`."""

    def __post_init__(self) -> None:
        for name in vars(self):
            together = [each for each in (name, f"{name}_images", f"{name}_synonyms") if hasattr(self, each)]
            if len({bool(getattr(self, each)) for each in together}) > 1:
                raise ConfigError(f"{' and '.join(together)}: give all of them or none")
        if self.textvqa_ocr and not self.textvqa:
            raise ConfigError("textvqa_ocr: needs textvqa")

    def system_of_source(self, generation: str) -> SystemName | Literal[""]:
        """The system text with which published evaluation scripts ask. `generation` is the text that prompts are asked
        with. A model that is asked with a text of the user's own is asked with it everywhere."""
        if self.system != "source":
            return ""
        if not generation:
            return SYSTEMS.get(self.asked_as, "")
        return "vicuna_v1" if generation in LLAVA_TEXTS.values() else ""

    def chosen(self, generation: str = "") -> list[Benchmark]:
        """The benchmarks that the fields ask for, each with its own system text; see `system_of_source`.

        Raises: InputError if a file is not as published, or if a directory of images does not exist.
        """
        members: list[Benchmark] = []
        system = self.system_of_source(generation)
        asked_as: AskedAs = "llava" if self.asked_as == "llava-onevision" else self.asked_as
        pope: SystemName | Literal[""] = system
        if self.pope_protocol == "seva" and system in (*LLAVA_TEXTS, ""):
            pope = "llava_v1" if system and generation != LLAVA_V1 else ""
        if self.toy_images:
            members += [
                ToyBenchmark(num_images=self.toy_images, camera=camera, partners=self.toy_partners)
                for camera in self.toy_cameras
            ]
        if self.pope:
            members.append(Pope(path=self.pope, image_root=self.pope_images, protocol=self.pope_protocol, system=pope))
        if self.mmbench:
            members.append(MMBench(path=self.mmbench, protocol=self.mmbench_protocol, system=system))
        if self.mmbench_cn:
            asked = self.mmbench_protocol
            members.append(MMBench(path=self.mmbench_cn, language="cn", protocol=asked, system=system))
        if self.seed:
            members.append(SeedBench(path=self.seed, image_root=self.seed_images, protocol=asked_as, system=system))
        if self.scienceqa:
            members.append(
                ScienceQa(path=self.scienceqa, image_root=self.scienceqa_images, protocol=asked_as, system=system)
            )
        if self.gqa:
            members.append(Gqa(path=self.gqa, image_root=self.gqa_images, protocol=asked_as, system=system))
        if self.textvqa:
            members.append(
                TextVqa(
                    path=self.textvqa,
                    image_root=self.textvqa_images,
                    ocr_path=self.textvqa_ocr,
                    asked_as=asked_as,
                    system=system,
                )
            )
        if self.mme:
            members.append(Mme(path=self.mme, protocol=asked_as, system=system))
        if self.chair:
            members.append(
                Chair(
                    path=self.chair,
                    image_root=self.chair_images,
                    synonyms_path=self.chair_synonyms,
                    num_images=self.chair_size,
                    protocol=self.chair_protocol,
                    system=system,
                )
            )
        if self.amber:
            path, image_root, answers = self.amber, self.amber_images, self.amber_protocol
            members.append(AmberGenerative(path=path, image_root=image_root, system=system))
            members.append(AmberDiscriminative(path=path, image_root=image_root, system=system, protocol=answers))
        for member in members:
            check_image_root(member.name, member.image_root)
        return members
