"""What the data report says, in its order: sentences, tables and pictures, whatever page they end up on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from plumbline.preferences.report import pictures
from plumbline.preferences.report.agreement import Alpha
from plumbline.preferences.report.census import KINDS
from plumbline.preferences.report.intervals import Estimate
from plumbline.preferences.report.schema import DataReport
from plumbline.preferences.report.text_damage import TROUBLES, Texts, Trouble
from plumbline.preferences.splits import SPLITS

T = TypeVar("T")

TOP = 15
"""Rows of a table, and bars of a picture, before the rest is only counted."""
IN_MATRIX = 10
BIASES = {"longer_wins": "The longer response wins", "first_shown_wins": "The response shown first wins"}


@dataclass(frozen=True)
class Table:
    """Cells as texts; `more` rows are left out."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    more: int = 0


@dataclass(frozen=True)
class Tile:
    """One figure at the top of the report."""

    name: str
    value: str
    note: str = ""


@dataclass
class Section:
    """A part of the report; `pictures` are SVG, for pages that can show them."""

    title: str
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)


def sections(report: DataReport) -> list[Section]:
    """Return all sections that are not empty."""
    made = (_glance(report), _rows(report), _splits(report), _lengths(report), _judgements(report),
            _agreement(report), _labellers(report), _texts(report), _fields(report), _quarantined(report))
    return [one for one in made if one.sentences or one.tables or one.tiles]


def percent(share: Estimate) -> str:
    """Return the share with its 95 % interval: `71.3 % (68.0 to 74.5)`."""
    return f"{100 * share['share']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def alpha_text(alpha: Alpha) -> str:
    """Return alpha with its 95 % interval, if it has one: `0.61 (0.53 to 0.68)`."""
    reach = f" ({alpha['low']:.2f} to {alpha['high']:.2f})" if "low" in alpha and "high" in alpha else ""
    return f"{alpha['value']:.2f}{reach}"


def _glance(report: DataReport) -> Section:
    counts, judged, agreement = report["counts"], report["judgements"], report["agreement"]
    tiles = [Tile("rows accepted", f"{counts['rows_accepted']:,}", f"of {counts['rows_read']:,} read"),
             Tile("pairs judged", f"{judged['pairs']:,}")]
    if "alpha" in agreement:
        tiles.append(Tile("Krippendorff's alpha", alpha_text(agreement["alpha"]), "1 perfect, 0 chance"))
    if "contradicted" in agreement:
        tiles.append(Tile("contradictions", percent(agreement["contradicted"]),
                          f"of {agreement['pairs_judged_again']:,} pairs judged again"))
    tiles += [Tile(name.lower(), percent(report["bias"][key]["overall"]), "50 % is fair")
              for key, name in BIASES.items() if key in report["bias"]]
    if "near_chance" in agreement:
        near = agreement["near_chance"]
        tiles.append(Tile("annotators near chance", f"{len(near['annotators']):,}",
                          f"of {near['measured']:,} measured"))
    if "labellers" in report and "share" in report["labellers"]:
        tiles.append(Tile("labels by machines", f"{100 * report['labellers']['share']:.1f} %"))
    return Section("At a glance", tiles=tiles)


def _rows(report: DataReport) -> Section:
    counts, strata = report["counts"], report["strata"]
    near = counts.get("near_heldout", 0)
    near_heldout = f"{near:,} too near to held-out prompts + " if near else ""
    found = Section("Rows", [
        f"{counts['rows_read']:,} rows read = {counts['rows_accepted']:,} accepted + "
        f"{counts['duplicates']:,} exact duplicates + {near_heldout}{counts['quarantined']:,} quarantined."])
    if counts.get("removed"):
        found.sentences.append(f"{counts['removed']:,} rows had been removed before, by request.")
    if "ratings" in report:
        ratings = report["ratings"]
        found.sentences.append(
            f"{ratings['ratings']:,} ratings gave {ratings['derived']:,} preferences; {ratings['alone']:,} "
            "stand alone: their annotator rated no other response to the same prompt, so that they say "
            f"nothing. {ratings['replaced']:,} were replaced by a later one of the same response.")
    known, sources = report["names"], report["by_source"]
    found.tables = [_counted("Kind", report["by_kind"], len(report["by_kind"])),
                    _counted("Source", sources, known["sources"])]
    if report["by_annotator"]:
        found.tables.append(_counted("Annotator", report["by_annotator"],
                                     known["annotators"] + ("unknown" in report["by_annotator"])))
    found.pictures = _bars(strata["source_by_kind"], KINDS, "Rows by source and kind")
    return found


def _splits(report: DataReport) -> Section:
    counts, leakage, strata = report["counts"], report["leakage"], report["strata"]
    crossed = leakage["prompts_in_two_splits"]
    found = Section("Splits", [
        f"{crossed:,} of {leakage['prompts']:,} prompts are in more than one split"
        + (", as it must be: the split is decided by a hash of the prompt." if not crossed else
           ". This must not be: please report it as a bug.")])
    if "near_heldout" in counts:
        found.sentences.append(f"{counts['near_heldout']:,} rows were kept out of training because their "
                               "prompt nearly repeats a held-out one.")
    if "near_duplicate_prompts" in counts:
        found.sentences.append(f"{counts['near_duplicate_prompts']:,} distinct prompts nearly repeat "
                               "another.")
    tables = (("Part", report["splits"]), ("Kind, rows", strata["kind_by_split"]),
              ("Source, rows", strata["source_by_split"]))
    columns = ["held-out" if split == "heldout" else split for split in SPLITS]
    for name, rows in tables:
        if rows:
            cells = [_numbers_row(key, row) for key, row in _top(rows)]
            every = report["names"]["sources"] if name.startswith("Source") else len(rows)
            found.tables.append(Table((name, *columns), cells, max(0, every - TOP)))
    for of, rows in (("kind", strata["kind_by_split"]), ("source", strata["source_by_split"])):
        found.pictures += _bars(rows, SPLITS, f"Splits within each {of}", whole=True)
    return found


def _lengths(report: DataReport) -> Section:
    found, sizes = Section("Lengths"), report["characters"]
    if sizes:
        found.tables = [Table(("Characters", "median", "95th percentile", "longest"),
                              [(name, f"{one['median']:,}", f"{one['p95']:,}", f"{one['longest']:,}")
                               for name, one in sizes.items()])]
    for names in (("prompt", "response"), ("chosen", "rejected")):
        if all(name in sizes for name in names):
            found.pictures.append(pictures.histograms({name: sizes[name]["histogram"] for name in names},
                                                      f"Characters of {names[0]} and {names[1]}"))
    return found


def _judgements(report: DataReport) -> Section:
    judged = report["judgements"]
    found = Section("Judgements")
    if not judged["pairs"]:
        return found
    found.sentences.append(f"{judged['pairs']:,} pairs of responses are judged, those within rankings "
                           "included.")
    if "ties" in judged:
        found.sentences.append(f"Ties: {percent(judged['ties'])}.")
    for key, name in BIASES.items():
        if key not in report["bias"]:
            continue
        bias = report["bias"][key]
        found.sentences.append(f"{name}: {percent(bias['overall'])} of {bias['overall']['n']:,}. Half is "
                               "fair.")
        for of, shares in (("Source", bias["by_source"]), ("Annotator", bias["by_annotator"])):
            more = report["names"][of.lower() + "s"] - TOP if len(shares) > TOP else 0
            cells: list[tuple[str, ...]] = [(one, percent(share), f"{share['n']:,}")
                                            for one, share in _top(shares)]
            found.tables.append(Table((of, name.lower(), "of"), cells, more))
        rows = {"overall": bias["overall"]}
        for shares in (bias["by_source"], bias["by_annotator"]):
            rows |= dict(_top(shares))
        found.pictures.append(pictures.intervals(rows, f"{name}, with 95 % intervals"))
    found.tables = [table for table in found.tables if table.rows]
    return found


def _agreement(report: DataReport) -> Section:
    agreement, found = report["agreement"], Section("Agreement")
    if not report["judgements"]["pairs"]:
        return found
    found.sentences.append(
        f"{agreement['pairs_judged_again']:,} pairs were judged more than once, "
        f"{agreement['contradictions']:,} of them with both labels: {agreement['by_one_annotator']:,} by one "
        f"and the same annotator, {agreement['between_annotators']:,} between annotators.")
    if "cycles" in agreement:
        circles = agreement["cycles"]
        found.sentences.append(
            f"{circles['with_cycle']:,} of {circles['prompts']:,} prompts with three or more decided pairs "
            "have a circle in what the majority prefers: A over B, B over C, C over A. One annotator alone: "
            f"{circles['with_cycle_of_one_annotator']:,} of {circles['prompts_of_one_annotator']:,}.")
    if "alpha" in agreement and "overall" in agreement:
        found.sentences.append(
            f"Two annotators give the same label: {percent(agreement['overall'])} of "
            f"{agreement['overall']['n']:,}. Krippendorff's alpha, ordinal: "
            f"{alpha_text(agreement['alpha'])}; 1 is perfect, 0 is chance.")
    if "near_chance" in agreement:
        near = agreement["near_chance"]
        names = ", ".join(near["annotators"][:TOP]) + (" and others" if len(near["annotators"]) > TOP else "")
        found.sentences.append(
            f"Near chance: {names or 'nobody'}, of {near['measured']:,} annotators who share "
            f"{near['enough_pairs']} or more decided pairs with others. Near chance means that the 95 % "
            "interval of their agreement reaches one half, what a coin gives.")
    found.tables = _agreement_tables(report)
    names_shown = list(agreement["by_annotator"])[:IN_MATRIX]
    if len(names_shown) > 1:
        found.pictures.append(pictures.matrix(names_shown, agreement["by_pair"],
                                              "Equal judgements of each two annotators, percent"))
    return found


def _agreement_tables(report: DataReport) -> list[Table]:
    agreement = report["agreement"]
    if not agreement["by_annotator"]:
        return []
    near = agreement["near_chance"]["annotators"] if "near_chance" in agreement else []
    return [
        Table(("Annotator, with the others", "same label", "of", "alpha", "same preference where decided",
               ""),
              [(name, percent(one), f"{one['n']:,}", alpha_text(one["alpha"]) if "alpha" in one else "",
                percent(one["decided"]) if "decided" in one else "", "near chance" if name in near else "")
               for name, one in _top(agreement["by_annotator"])], max(0, agreement["annotators"] - TOP)),
        Table(("Two annotators", "same label", "of", "alpha"),
              [(" and ".join(pair["annotators"]), percent(pair), f"{pair['n']:,}",
                alpha_text(pair["alpha"]) if "alpha" in pair else "") for pair in agreement["by_pair"][:TOP]],
              max(0, len(agreement["by_pair"]) - TOP)),
    ]


def _labellers(report: DataReport) -> Section:
    found = Section("Labellers")
    if "labellers" not in report or "share" not in report["labellers"]:
        return found
    labels = report["labellers"]
    found.sentences.append(f"{labels['human']:,} rows are judged by people, {labels['machine']:,} by "
                           f"machines ({100 * labels['share']:.1f} % of all); {labels['unknown']:,} do not "
                           "say.")
    found.tables.append(Table(("Annotator", "human", "machine", "unknown"),
                              [(name, f"{one['human']:,}", f"{one['machine']:,}", f"{one['unknown']:,}")
                               for name, one in _top(labels["by_annotator"])],
                              max(0, len(labels["by_annotator"]) - TOP)))
    return found


def _texts(report: DataReport) -> Section:
    found, texts = Section("Texts"), report["texts"]
    troubled = {name: one for name, one in texts.items() if one["trouble"]}
    if texts:
        found.sentences.append("Share of prompts and responses with traces of damage; tags and entities can "
                               "be meant, where texts are about HTML."
                               if troubled else "No traces of damage were found.")
    if troubled:
        kinds = {kind for one in troubled.values() for kind in one["trouble"]}
        seen = [trouble for trouble in TROUBLES if trouble in kinds]
        found.tables.append(Table(("Source", "texts", *seen),
                                  [_damage_row(name, one, seen) for name, one in _top(troubled)],
                                  max(0, len(troubled) - TOP)))
        found.tables.append(Table(("First seen", "source", "around it"),
                                  [(trouble, example["source"], repr(example["around"]))
                                   for trouble, example in report["trouble_examples"].items()]))
    if texts:
        found.tables.append(Table(("Source", "texts by script"),
                                  [_scripts_row(name, one) for name, one in _top(texts)],
                                  max(0, report["names"]["sources"] - TOP)))
    return found


def _numbers_row(name: str, row: Mapping[str, int]) -> tuple[str, ...]:
    return (name, *(f"{row[split]:,}" for split in SPLITS))


def _damage_row(name: str, one: Texts, seen: Sequence[Trouble]) -> tuple[str, ...]:
    damage = one["trouble"]
    shares = [f"{100 * damage[kind]['share']:.2f} %" if kind in damage else "" for kind in seen]
    return (name, f"{one['texts']:,}", *shares)


def _scripts_row(name: str, one: Texts) -> tuple[str, ...]:
    return (name, ", ".join(f"{script} {n:,}" for script, n in one["scripts"].items()))


def _fields(report: DataReport) -> Section:
    found = Section("Fields that were not read")
    if unread := report.get("unread"):
        found.sentences.append("No row was made of the fields on the left, whose names are not known."
                               if report.get("left_alone") else "No row was made of these fields.")
        found.tables.append(_counted("Field", unread, len(unread)))
    if left_alone := report.get("left_alone"):
        found.sentences.append("What is left alone is known to say nothing about which response is better.")
        found.tables.append(_counted("Left alone", left_alone, len(left_alone)))
    return found


def _quarantined(report: DataReport) -> Section:
    found, reasons = Section("Quarantined"), report["quarantine"]
    if reasons:
        found.sentences.append("Each row with its file and line is in quarantine.jsonl.")
        found.tables.append(_counted("Reason", reasons, len(reasons)))
    return found


def _counted(title: str, counts: Mapping[str, int], all_of_them: int) -> Table:
    return Table((title, "rows"), [(name, f"{n:,}") for name, n in _top(counts)], max(0, all_of_them - TOP))


def _top(rows: Mapping[str, T]) -> list[tuple[str, T]]:
    return list(rows.items())[:TOP]


def _bars(rows: Mapping[str, Mapping[str, int]], parts: Sequence[str], title: str,
          whole: bool = False) -> list[str]:
    return [pictures.bars(dict(_top(rows)), parts, title, whole)] if rows else []
