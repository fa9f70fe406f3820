"""tf_requant targets."""

import json

from absl import flags as absl_flags

from tf_requant.targets import builtin_targets, load_target

SUMMARY = "lists the built-in targets, or shows one with the source of every fact"
EXAMPLE = "tf_requant targets --show=nna_sym8_pow2"


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    absl_flags.DEFINE_string("show", None, "The name of one target, or a target .json file.", flag_values=values)
    absl_flags.DEFINE_enum("format", "text", ["text", "json"], "How to print.", flag_values=values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    if values.show:
        document = load_target(values.show).to_dict()
        print(json.dumps(document, indent=2) if values.format == "json" else _readable(document))
        return 0
    named = {name: load_target(name) for name in builtin_targets()}
    if values.format == "json":
        print(json.dumps({name: t.description for name, t in named.items()}, indent=2))
    else:
        print("\n".join(f"{name:<28} {t.description}" for name, t in named.items()))
    return 0


def _readable(document: dict[str, object]) -> str:
    lines = [f"{document['name']}: {document['description']}"]
    for key, value in document.items():
        if key in ("name", "description", "sources", "ops"):
            continue
        lines.append(f"  {key}: {json.dumps(value)}")
    lines.append(f"  ops: {', '.join(document['ops'])}")  # type: ignore[arg-type]
    lines.append("sources:")
    lines += [f"  {fact}: {source}" for fact, source in document["sources"].items()]  # type: ignore[attr-defined]
    return "\n".join(lines)
