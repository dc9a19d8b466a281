from seva_ray.study import StudyContent


def render(content: StudyContent) -> str:
    return content.title
