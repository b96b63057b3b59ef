"""`dataset_builder --plan`: what a run would make and cost, for a reader."""

from __future__ import annotations

from dataset_builder.check import check_settings
from dataset_builder.config import BuildConfig
from dataset_builder.estimate import Estimate, estimate
from drspo.files.run import RunDir
from drspo.llm.account import cost


def main_plan(config: BuildConfig) -> int:
    """Print the plan; nothing is written to the run folder."""
    check_settings(config, RunDir(config.out) if config.out else None)
    print(describe(estimate(config), config))
    return 0


NONE_PASSES = ": nothing would be made, and the run would end there"


def describe(found: Estimate, config: BuildConfig) -> str:
    """The figures for a reader."""
    lines = []
    most = "" if found.counted else "at most "
    lost = ", ".join(f"{count} {kind}" for kind, count in found.losses.items())
    lines.append(f"ideas      {found.ideas:,}" + (f" ({lost})" if lost else ""))
    lines.append(f"prompts    {most}{found.accepted:,} accepted" + ("" if found.accepted else NONE_PASSES))
    if found.questions:
        price = cost(config.llm, found.tokens_in, found.tokens_out)
        tokens = f"{found.tokens_in:,} tokens in, {found.tokens_out:,} out"
        lines.append(
            f"llm        {found.questions:,} questions, about {tokens}"
            + (f", price {price:.2f}" if price else "")
        )
    candidates = config.candidates
    how = f"{len(candidates.generators)} generators x {candidates.seeds} seeds"
    how += f", {candidates.height} x {candidates.width}"
    lines.append(f"images     {most}{found.images:,} ({how}), {found.images_done:,} of them made")
    lines.append(f"pairs      at most {found.pairs:,} ({config.pairs.method})")
    lines += _bytes(found, config)
    lines.append(_hours(found, config))
    if config.rates.gpu_hour:
        lines.append(_price(found, config))
    return "\n".join(lines)


def _bytes(found: Estimate, config: BuildConfig) -> list[str]:
    units = found.images * found.bytes_per_image
    copies = 2 if config.export.pickapic else 1
    shards = 2 * found.pairs * found.bytes_per_image * copies
    if config.export.ranking:
        shards += units
    basis = found.bytes_basis or "as given"
    lines = [f"storage    {size(units)} of candidates and at most {size(shards)} of shards ({basis})"]
    if config.rates.storage_gb_month:
        price = (units + shards) / 1e9 * config.rates.storage_gb_month
        lines.append(f"           {price:,.2f} a month")
    return lines


def _hours(found: Estimate, config: BuildConfig) -> str:
    if found.hours_left is None:
        return (
            "time       not known: --rates.calibrate times two samples; or give --rates.seconds-per-image N"
        )
    left = found.hours_left
    devices = max(1, config.rates.gpus)
    each = f"{found.seconds_per_image:.2f} s an image, {found.basis}"
    return f"time       {left:,.2f} device hours, {left / devices:,.2f} hours on {devices} ({each})"


def _price(found: Estimate, config: BuildConfig) -> str:
    if found.hours_left is None:
        return "price      not known without the time"
    return f"price      {found.hours_left * config.rates.gpu_hour:,.2f} for devices"


def size(count: float) -> str:
    """A number of bytes with a unit that keeps it short."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
