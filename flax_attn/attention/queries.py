"""What asks the gates of a network: the settings of relation and query, checked and put to use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flax_attn.attention.relations import RELATIONS, Ask, Pass, Passes
from flax_attn.config import ModelConfig, entry
from flax_attn.config.names import QUERIES
from flax_attn.errors import UsageError


def check_query(config: ModelConfig, *, needs_query: bool) -> None:
    """Checks that relation, query and levels are known and do not contradict each other.

    ``needs_query`` says whether the score tells no keys apart without a query. What they need of
    the cases is for ``check_case``.

    Raises:
      UsageError: they do.
    """
    for flag, names, known in (
        ("relation", config.relation, tuple(RELATIONS)),
        ("query", config.query or ("none",), QUERIES),
    ):
        if not names or len(set(names)) < len(names) or {*names} - {*known}:
            raise UsageError(
                f"--{flag} takes different ones of {', '.join(known)}, got {' '.join(names)!r}"
            )
    asked = config.query
    if asked is not None and "none" in asked and len(asked) > 1:
        others = " ".join(name for name in asked if name != "none")
        raise UsageError(f"--query none excludes {others}: drop it, or the rest")
    if asked == ("none",) and "own" in config.relation and needs_query and config.hops == 1:
        raise UsageError(
            f"--query none leaves --score {config.score} without anything to compare a location "
            "with: choose --query learned, or a score such as gate"
        )
    if config.levels == "via" and len(config.gates) < 2:
        raise UsageError(
            f"--levels via needs two gates, got --gates {' '.join(config.gates)}: add one, or "
            "choose --levels apart"
        )
    if asked is not None and "meta" in asked and config.meta_into == "classifier":
        raise UsageError(
            "--meta-into classifier keeps metadata out of --query meta: drop one of them, or "
            "choose --meta-into both"
        )
    if asked is not None and "meta" not in asked and config.meta_into == "both":
        raise UsageError(
            f"--meta-into both needs meta in --query {' '.join(asked)}: add it, or choose "
            "--meta-into classifier"
        )


def check_case(config: ModelConfig) -> None:
    """Checks that the cases have the views and the metadata that the settings need.

    Raises:
      UsageError: they do not.
    """
    views = view_count(config)
    for name in config.relation:
        if views < entry(RELATIONS, name, "relation").views:
            raise UsageError(
                f"--relation {name} needs cases of several pictures, but here each has one: "
                "choose --relation own, or make views of it by --views"
            )
    if config.view_merge == "attend":
        if views == 1:
            raise UsageError(
                "--view-merge attend needs cases of several pictures, but here each has one: "
                "drop it, or make views of it by --views"
            )
        kept = [look.view for _, look in every_pass(config) if look.kept]
        if len({kept.count(view) for view in range(views)}) > 1:
            raise UsageError(
                f"--view-merge attend needs as many contexts of each view, but --relation "
                f"{' '.join(config.relation)} has more of the first of {views}: choose concat"
            )
    if config.meta_features == 0:
        if config.query is not None and "meta" in config.query:
            raise UsageError("--query meta needs cases with metadata, but here are none: drop it")
        if config.meta_into != "query":
            raise UsageError(
                f"--meta-into {config.meta_into} needs cases with metadata, but here are none: "
                "drop it"
            )


def view_count(config: ModelConfig) -> int:
    """Returns how many views a case has."""
    return max(1, len(config.all_views))


def query_of(config: ModelConfig, relation: str) -> tuple[str, ...]:
    """Returns what asks in every pass of a relation, whatever the relation itself says.

    That is what ``--query`` names; else what the relation has by default, and the metadata.
    """
    if config.query is not None:
        return tuple(name for name in config.query if name != "none")
    default = RELATIONS[relation].query
    has_meta = config.meta_features > 0 and config.meta_into != "classifier"
    return (*default, "meta") if has_meta else default


def relation_passes(config: ModelConfig, *, deeper: bool = False) -> list[tuple[str, Passes]]:
    """Returns the passes of each relation of a network, by name, with all that asks in them.

    ``deeper`` says whether a deeper gate does.
    """
    views = view_count(config)

    def whole(look: Pass, query: Iterable[str]) -> Pass:
        more = {"guide": Ask("guide", (look.view,)), "meta": Ask("meta")}
        added = [more[name] for name in query if name in more]
        return look._replace(asks=(*look.asks, *added, *([Ask("deeper")] if deeper else [])))

    return [
        (name, tuple(whole(look, query_of(config, name)) for look in relation.passes(views)))
        for name, relation in ((name, RELATIONS[name]) for name in config.relation)
    ]


def every_pass(config: ModelConfig) -> list[tuple[str, Pass]]:
    """Returns the passes of all relations one after the other, each with its relation's name."""
    return [(name, look) for name, passes in relation_passes(config) for look in passes]


def gates_at(tap: str, widths: Mapping[str, int], config: ModelConfig) -> dict[str, dict[str, int]]:
    """Returns the gates at a feature map by name, each with the features of its sources."""
    deeper = deeper_gates(config)[tap]
    features = {
        **dict.fromkeys(("guide", "others", "affinity"), widths[config.row.family.guide]),
        "context": widths[tap],
        "deeper": 0 if deeper is None else widths[deeper],
        "meta": config.attn_features,
        "learned": 1,
    }
    gates: dict[str, dict[str, int]] = {}
    for relation, passes in relation_passes(config, deeper=deeper is not None):
        learned = ["learned"] if "learned" in query_of(config, relation) else []
        for look in passes:
            sources = gates.setdefault(gate_name(tap, relation, look, config), {})
            for name in (*(ask.source for ask in look.asks), *learned):
                sources[name] = features[name]
    return gates


def gate_name(tap: str, relation: str, look: Pass, config: ModelConfig) -> str:
    """Returns the name of the gate that does a pass at a feature map.

    Views that can take each other's place share one; named ones have gates of their own.
    """
    parts = [tap, *([relation] if relation != "own" else []), *([look.role] if look.role else [])]
    if view_count(config) > 1 and not config.share_gates:
        parts.append(f"view{1 + (look.view if look.after is None else look.after)}")
    return "_".join(parts)


def map_name(tap: str, relation: str, look: Pass, config: ModelConfig) -> str:
    """Returns the name of a pass's map and vector, such as ``pool3`` or ``clinic pool3``."""
    if view_count(config) == 1:
        return tap
    words = [config.all_views[look.view], tap]
    if len(config.relation) > 1:
        words.append(relation)
    if look.after is not None:
        words.append(f"after {config.all_views[look.after]}")
    return " ".join(words)


def passes_of_maps(config: ModelConfig) -> dict[str, Pass]:
    """Returns the pass that each map of a network is of, by the map's name."""
    return {
        map_name(tap, relation, look, config): look
        for tap in config.gates
        for relation, look in every_pass(config)
        if look.kept
    }


def deeper_gates(config: ModelConfig) -> dict[str, str | None]:
    """Returns each gate and the next deeper one that asks it, in the order in which they attend."""
    if config.levels == "apart":
        return dict.fromkeys(config.gates)
    taps = [tap for tap in reversed(config.row.family.gated) if tap in config.gates]
    return dict(zip(taps, [None, *taps[:-1]], strict=True))
