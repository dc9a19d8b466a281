"""The order of a step's pairs in which as many as possible of those about one image are in one forward pass."""

from collections.abc import Hashable, Sequence


def together(images: Sequence[Hashable], size: int) -> list[int]:
    """Indices of the pairs with these images, so that each `size` in a row, which are one forward pass, have as few
    different images as possible. Pairs that are left keep their order.

    The pairs of an image fill forward passes of their own. What is left of them shares one with what is left of others,
    the larger groups first.
    """
    of_image: dict[Hashable, list[int]] = {}
    for place, image in enumerate(images):
        of_image.setdefault(image, []).append(place)
    groups = [places[start : start + size] for places in of_image.values() for start in range(0, len(places), size)]
    passes: list[list[int]] = []
    with_room: list[list[int]] = []
    for group in sorted(groups, key=lambda group: (-len(group), group)):
        found = next((places for places in with_room if len(places) + len(group) <= size), None)
        if found is None:
            found = []
            passes.append(found)
            with_room.append(found)
        found += group
        if len(found) == size:
            with_room.remove(found)
    passes.sort(key=lambda places: -len(places))  # an earlier pass that is not full would shift all later ones
    return [place for places in passes for place in places]
