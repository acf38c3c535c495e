"""Registries: names to specs, with the same rules for encoders and decoders."""

import difflib
import fnmatch


def add(registry, spec, kind, overwrite):
    """Puts a spec into a registry under its name.

    Args:
        registry: dict from name to spec, which is changed.
        spec: of the class that the registry holds.
        kind: `"encoder"` or `"decoder"`, for the messages.
        overwrite: bool, whether a spec of the same name may be replaced.

    Raises:
        ValueError: if the name is taken and `overwrite` is false.
    """
    if spec.name in registry and not overwrite:
        raise ValueError(
            f"The name {spec.name!r} is registered already, for another {kind}; choose another name or pass overwrite=True."
        )
    registry[spec.name] = spec


def find(registry, name, kind):
    """The spec of a name; upper and lower case are the same.

    Raises:
        ValueError: if there is none; the message names the nearest ones.
    """
    lowered = {known.lower(): known for known in registry}
    spec = registry.get(name) or registry.get(lowered.get(str(name).lower()))
    if spec is None:
        near = difflib.get_close_matches(str(name).lower(), lowered, n=3)
        hint = f"Did you mean {' or '.join(repr(lowered[n]) for n in near)}? " if near else ""
        raise ValueError(
            f"Unknown {kind} {name!r}. {hint}tl_unet.list_{kind}s() lists all {len(registry)}."
        )
    return spec


def matching(registry, pattern):
    """The names that a shell-style pattern matches in either case, sorted; all of them for `None`."""
    names = sorted(registry)
    if pattern is None:
        return names
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
