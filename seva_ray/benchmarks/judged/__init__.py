"""Judged benchmarks, one file each. To add one, write a dataclass and add a line to `JudgedBenchmarks`."""

from dataclasses import dataclass
from typing import Literal

from seva_ray.benchmarks.choices import AskedAs
from seva_ray.benchmarks.files import check_image_root
from seva_ray.benchmarks.judged.base import JudgedBenchmark
from seva_ray.benchmarks.judged.competition import Competition
from seva_ray.benchmarks.judged.llava_bench import LlavaBench
from seva_ray.benchmarks.judged.mm_vet import MmVet
from seva_ray.benchmarks.judged.mmhal import MmHal
from seva_ray.benchmarks.judged.shr import Shr
from seva_ray.benchmarks.mmbench import MMBench
from seva_ray.core.errors import ConfigError
from seva_ray.core.system_texts import SystemName


@dataclass(frozen=True, kw_only=True)
class JudgedBenchmarks:
    """The benchmarks that a judge scores models on, by their published folders. Empty: not this benchmark."""

    mm_vet: str = ""
    """MM-Vet's folder, with mm-vet.json and images/."""
    llava_bench: str = ""
    """LLaVA-Bench (In-the-Wild)'s folder, with questions.jsonl, context.jsonl, answers_gpt4.jsonl and images/."""
    competition: bool = False
    """Whether both models also compete on LLaVA-Bench's questions. The judge sees their answers in both orders."""
    mmhal: str = ""
    """MMHal-Bench's folder, with response_template.json and images/."""
    shr: str = ""
    """SHR's folder, with val_images_final.json, shr_factual_part1.jsonl and shr_factual_part2.jsonl."""
    visual_genome: str = ""
    """Visual Genome's folder, for SHR, with image_data.json, region_descriptions.json, VG_100K/ and VG_100K_2/."""

    mmbench: str = ""
    """MMBench's TSV file, of whose answers the judge reads those in which no rule finds an option."""
    mmbench_cn: str = ""
    """The same with MMBench-CN's TSV file."""

    def __post_init__(self) -> None:
        if bool(self.shr) != bool(self.visual_genome):
            raise ConfigError("shr and visual_genome: give both or neither")
        if self.competition and not self.llava_bench:
            raise ConfigError("competition: needs llava_bench, whose questions it asks")

    def chosen(
        self, system: SystemName | Literal[""] = "", asked_as: AskedAs = "llava"
    ) -> list[JudgedBenchmark | MMBench]:
        """The benchmarks that the fields ask for, each with the named system text. `asked_as`: the way in which MMBench
        asks.

        Raises: InputError if a file is not as published.
        """
        members: list[JudgedBenchmark | MMBench] = []
        if self.mm_vet:
            members.append(MmVet(path=self.mm_vet, system=system))
        if self.llava_bench:
            members.append(LlavaBench(path=self.llava_bench, system=system))
        if self.competition:
            members.append(Competition(path=self.llava_bench, system=system))
        if self.mmhal:
            members.append(MmHal(path=self.mmhal, system=system))
        if self.shr:
            members.append(Shr(path=self.shr, image_root=self.visual_genome, system=system))
        files: list[tuple[str, Literal["en", "cn"]]] = [(self.mmbench, "en"), (self.mmbench_cn, "cn")]
        for path, language in files:
            if path:
                members.append(MMBench(path=path, language=language, system=system, reader="judge", protocol=asked_as))
        for member in members:
            check_image_root(member.name, member.image_root)
        return members
