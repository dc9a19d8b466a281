"""The questions about one toy scene as prompts, with its picture as the PNG file that a camera would write."""

from collections.abc import Iterator
from io import BytesIO

from PIL import Image

from seva_ray.core.records import Prompt
from seva_ray.toy.world import CAMERAS, Question, Scene, questions, render


def prompts_about(scene: Scene, camera: str, name: str, partners: bool = False) -> Iterator[tuple[Prompt, Question]]:
    """Every question about a scene, as a prompt and as a Question with its answer. The prompt's id is
    `<name>-<scene>-<question>`. `partners`: adversarial questions are about missing partners, see habits.py."""
    image_id = f"{name}-{scene.index:06d}"
    file = BytesIO()
    Image.fromarray(render(scene, CAMERAS[camera])).save(file, format="PNG", compress_level=1)
    for number, question in enumerate(questions(scene, partners)):
        prompt = Prompt(
            prompt_id=f"{image_id}-{number}",
            image_id=image_id,
            question=question.text,
            source="toy",
            image_bytes=file.getvalue(),
        )
        yield prompt, question
