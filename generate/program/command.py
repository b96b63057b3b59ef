"""The command `python -m generate`: prompts x seeds to scrolls in files."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drspo import log
from drspo.config import load, to_dict
from drspo.errors import UserError
from drspo.files.pictures import picture_size
from drspo.files.storage import Storage
from generate import GENERATORS
from generate.catalogue import listing
from generate.images.preview import Recorder
from generate.methods.continued import Endless
from generate.methods.drspo.blueprint import check_sketch
from generate.methods.drspo.stages import STAGES, lora_stages
from generate.methods.upscaled import smaller
from generate.models.specs import MODELS, ModelSpec
from generate.passages import Passage, in_words, read_along
from generate.program.config import Config, plugin_settings
from generate.program.cost import Plan, count_evaluations, peak_bytes, rehearse
from generate.program.endless import check_endless, write_strips
from generate.program.jobs import Job, file_name, is_done, read_prompts, require_writable, split_out
from generate.program.metadata import encode, read
from generate.program.plans import (
    BEST,
    check_plans,
    draw_plans,
    judges_of,
    numbered,
    rehearsed,
    sheet_name,
    tell,
    with_plan,
)
from generate.program.session import Session, Setup, check_like, open_session, setup_like
from generate.program.source import Source, canvases_of, own_prompt, read_source
from generate.request import Generated, Request, Step, check_request, generator_class, own, settings_of

logger = logging.getLogger(__name__)
DESCRIPTION = """Makes long scroll images from prompts.

  python -m generate "a lighthouse at dusk" --model miniature --out scroll.png
  python -m generate "a castle" "a pine at dawn" --seeds 0 1 2 --out scrolls/
  python -m generate --like scroll.png --out again.png"""


def main(argv: list[str]) -> int:
    """Runs the command on these arguments; the exit code, 0 when every scroll is there."""
    config = load(Config, argv, package="generate", prog="python -m generate", description=DESCRIPTION)
    if config.list:
        print(listing())
        return 0
    return _again(config) if config.like else _make(config)


def _make(config: Config) -> int:
    along = read_along(config.along) if config.along else ()
    source = read_source(config)
    prompts = _prompts(config, along)
    if not prompts or not all(p.strip() for p in prompts):
        raise UserError(
            "there is nothing to make: give one or more prompts", hint='For example "a lighthouse at dusk".'
        )
    seeds = config.seeds or (config.seed,)
    repeated: list[Any] = [p for p in prompts if prompts.count(p) > 1] or [
        s for s in seeds if seeds.count(s) > 1
    ]
    if repeated:
        raise UserError(f"given twice: {', '.join(map(repr, sorted(set(repeated))))}")
    suffix = f".{config.format}" if config.format else ""
    folder, single = split_out(config.out, len(prompts) * len(seeds), suffix)
    if config.endless:
        check_endless(config, folder, single)
    setup = _setup(config)
    check_plans(config, len(prompts) * len(seeds))
    setup = replace(setup, source=source)
    _check_early(config, setup, along)
    store = Storage(folder)
    if not config.plan:
        require_writable(store)
    session = open_session(setup)
    requests = [
        _sized(_request(config, session.family.spec, prompt, seed, along), source)
        for prompt in prompts
        for seed in seeds
    ]
    jobs = [Job(request=r, name=single or file_name(r, suffix or ".png")) for r in requests]
    session.generator.check(requests)
    judges = judges_of(config, session) if config.blueprints else None
    if config.plan:
        recorder = Recorder() if config.save_steps else None
        plan = rehearse(rehearsed(config, session, judges), session.family, requests[0], recorder)
        return _print_plan(plan, session, requests)
    if config.blueprints:
        return _choose(session, jobs, judges, store, config)
    todo = [
        job for job in jobs if not is_done(store, job.name, session.record(job.request), config.overwrite)
    ]
    if len(todo) < len(jobs):
        logger.info(
            "kept %d of %d scrolls that were finished with the same settings",
            len(jobs) - len(todo),
            len(jobs),
        )
    return _run(session, todo, store, config) if todo else 0


def _choose(session: Session, jobs: Sequence[Job], judges: Any, store: Storage, config: Config) -> int:
    """Each scroll along one of its blueprints: the best, or the one that was named."""
    number = numbered(config.blueprint_choice)
    for job in jobs:
        numbers = [number] if number else range(1, config.blueprints + 1)
        records = [with_plan(session, job.request, one).record(job.request) for one in numbers]
        if is_done(store, job.name, records, config.overwrite):
            logger.info("kept %s, which was finished with the same settings", store.url(job.name))
            continue
        chosen = number
        if number is None:
            plans = draw_plans(session, job.request, config.blueprints, judges)
            store.write(sheet_name(job.name), plans.sheet())
            chosen = plans.best if config.blueprint_choice == BEST else None
            tell(plans, chosen, store.url(sheet_name(job.name)))
        if chosen is not None:
            _run(with_plan(session, job.request, chosen), [job], store, config)
    return 0


def _prompts(config: Config, along: Sequence[Passage]) -> list[str]:
    if not along:
        given = [*config.prompt, *(read_prompts(Path(config.prompts)) if config.prompts else [])]
        return given or list(own_prompt(config) if config.extend or config.repaint else ())
    if config.prompt or config.prompts:
        hint = "Leave prompts out, or say in every passage what holds everywhere."
        raise UserError("--along says what holds where, and prompts were given beside it", "--along", hint)
    return [in_words(along)]


def _again(config: Config) -> int:
    if config.blueprints:
        raise UserError("--like paints along the scroll's own blueprint", "--blueprints", "Leave it out.")
    if config.prompt or config.prompts or config.along:
        raise UserError("--like takes its prompt from the scroll: leave prompts out", where="--like")
    record = read(Path(config.like))
    folder, name = split_out(config.out, 1, f".{config.format}" if config.format else "")
    store = Storage(folder)
    require_writable(store)
    given = replace(
        _setup(config),
        source=read_source(config),
        loras=_loras(config, generator_class(record.method).stages),
    )
    session = open_session(setup_like(record, given))
    now = session.record(record.request)
    check_like(record, now)
    job = Job(request=record.request, name=name or file_name(record.request, Path(config.like).suffix))
    if is_done(store, job.name, now, config.overwrite):
        logger.info("%s is there already, made with the same settings", store.url(job.name))
        return 0
    return _run(session, [job], store, config)


def _setup(config: Config) -> Setup:
    method = generator_class(config.method)
    settings = {name: to_dict(getattr(config, name)) for name in GENERATORS}
    for name in GENERATORS:
        if name != config.method and settings[name] != to_dict(getattr(Config(), name)):
            raise UserError(
                f"settings of {name} were given, but the method is {config.method}",
                hint=f"Choose --method {name}, or leave --{name}.… out.",
            )
    given = plugin_settings(config.options, config.method, method.name)
    return Setup(
        model=config.model,
        method=config.method,
        settings=settings.get(config.method, given),
        loras=_loras(config, method.stages),
        revision=config.revision,
        controlnet=config.controlnet,
        conditioning=config.controlnet_conditioning,
        ip_adapter=config.ip_adapter,
        image_encoder=config.image_encoder,
        other_base=config.other_base,
        upscale=config.upscale,
        upscaler=config.upscaler,
        blueprint=config.blueprint,
        endless=config.endless,
        offload=config.offload,
        device=config.device,
        dtype=config.dtype,
        model_given=config.model != Config.model,
    )


def _loras(config: Config, stages: Sequence[str]) -> dict[str, tuple[str, float]]:
    paths = {stage: getattr(config, f"lora_{stage}") for stage in STAGES if getattr(config, f"lora_{stage}")}
    if other := [stage for stage in paths if stage not in stages]:
        raise UserError(
            f"{config.method} has no stage {other[0]!r} that wears a LoRA of its own"
            + ("" if stages else ": it has one stage"),
            hint="Give its LoRA by --lora.",
        )
    if not stages:
        return {"all": (config.lora, config.lora_weight)} if config.lora else {}
    for stage in lora_stages(config.lora) if config.lora else ():
        if stage in paths:
            raise UserError(f"two LoRAs for the stage {stage}: --lora and --lora-{stage}")
        paths[stage] = config.lora
    return {stage: (path, config.lora_weight) for stage, path in paths.items()}


def _check_early(config: Config, setup: Setup, along: tuple[Passage, ...] = ()) -> None:
    """Everything that needs no weights; the rest is checked when they are there."""
    spec = MODELS.get(config.model)
    method, settings = generator_class(config.method), settings_of(setup.method, setup.settings)
    method.check_weights(settings, spec)
    for seed in config.seeds or (config.seed,):
        request = _request(config, spec or ModelSpec(base=config.model), "", seed, along)
        check_request(request)
        if setup.source is None and not config.endless:
            method.check_settings(settings, smaller(request, config.upscale), spec)
        elif spec is not None:
            for canvas in canvases_of(setup.source, request, spec):
                method.check_settings(settings, canvas, spec)
        if spec is not None and config.blueprint:
            check_sketch(picture_size(config.blueprint), smaller(request, config.upscale))
    if (config.ip_adapter or config.image_encoder) and not method.needs_ip_adapter(settings):
        flag = "--ip-adapter" if config.ip_adapter else "--image-encoder"
        raise UserError(
            "an IP-Adapter was given, but no window is shown a picture",
            flag,
            "Switch image_prompt on, for example --drspo.image-prompt.enabled.",
        )
    if config.upscaler and config.upscale == 1:
        raise UserError("an upscaler was given, but nothing is enlarged", "--upscaler", "Add --upscale 2.")


def _sized(request: Request, source: Source | None) -> Request:
    """The request at the size of what it goes on with."""
    if source is None:
        return request
    height, width = source.size
    return replace(request, height=height, width=width)


def _request(
    config: Config, spec: ModelSpec, prompt: str, seed: int, along: tuple[Passage, ...] = ()
) -> Request:
    return Request(
        prompt=prompt,
        negative_prompt=config.negative_prompt,
        seed=seed,
        height=own(config.height, spec.scroll[0]),
        width=own(config.width, spec.scroll[1]),
        steps=own(config.steps, spec.steps),
        guidance_scale=own(config.guidance_scale, spec.guidance_scale),
        guidance_rescale=config.guidance_rescale,
        along=along,
    )


def _run(session: Session, jobs: Sequence[Job], store: Storage, config: Config) -> int:
    started = time.monotonic()
    total = sum(session.generator.count_steps(job.request) for job in jobs)
    with (
        log.progress(total, _count(jobs), "steps") as bar,
        count_evaluations(session.family) as counts,
    ):
        for index, job in enumerate(jobs):
            if isinstance(session.generator, Endless):
                write_strips(session, session.generator, job, store, _reporter(bar, index + 1))
                continue
            recorder = Recorder() if config.save_steps else None
            made = _one(session, job.request, recorder, _reporter(bar, index + 1))
            _write(session, job, made, recorder, store, config)
    _summary(session, len(jobs), time.monotonic() - started, counts, store, jobs)
    return 0


def _one(
    session: Session, request: Request, recorder: Recorder | None, report: Callable[[Step], None]
) -> Generated:
    def watch(step: Step) -> None:
        report(step)
        if recorder is not None:
            recorder(step)

    return session.generator.generate([request], watch)[0]


def _reporter(bar: Any, number: int) -> Callable[[Step], None]:
    """Moves the bar at every step, so that a single scroll has a time left too."""

    def report(step: Step) -> None:
        bar.advance(scroll=number, stage=step.stage)

    return report


def _write(
    session: Session, job: Job, made: Generated, recorder: Recorder | None, store: Storage, config: Config
) -> None:
    """The extras first, the scroll last: a finished scroll means that everything of it is there."""
    stem, dot, suffix = job.name.rpartition(".")
    record = session.record(job.request, made.facts)
    if config.save_extras:
        for name, image in made.extras.items():
            store.write(f"{stem}.{name}.png", encode(image, record, ".png"))
    if recorder is not None:
        store.write(f"{stem}.steps.gif", recorder.animate(session.family.vae))
    store.write(job.name, encode(made.image, record, dot + suffix.lower()))


def _summary(
    session: Session, count: int, seconds: float, counts: dict[str, int], store: Storage, jobs: Sequence[Job]
) -> None:
    evaluations = ", ".join(f"{n} {name} evaluations" for name, n in counts.items() if n)
    memory = peak_bytes(session.family.device) / 2**30
    where = store.url(jobs[0].name) if count == 1 else store.base
    print(f"{where}: {_count(jobs)} in {seconds:.1f} s, {evaluations}, peak memory {memory:.2f} GiB")
    print(f"next      {_next(store.url(jobs[0].name))}")


def _next(scroll: str) -> str:
    """What one would want to type after a scroll: other ones of the kind, or this one again."""
    again = shlex.join(["python", "-m", "generate", "--like", scroll, "--out", "again.png"])
    return f"other scrolls by --seeds 1 2 3 --out FOLDER/, the same one by {again}"


def _count(jobs: Sequence[Job]) -> str:
    return "1 scroll" if len(jobs) == 1 else f"{len(jobs)} scrolls"


def _print_plan(plan: Plan, session: Session, requests: Sequence[Request]) -> int:
    request, count = requests[0], len(requests)
    print(
        f"{session.setup.method} on {session.setup.model}: "
        f"{request.height}x{request.width}, {request.steps} steps"
    )
    for network, sizes in plan.evaluations.items():
        detail = ", ".join(f"{n} at {h}x{w} latents" for (h, w), n in sizes.items())
        print(f"  {network}: {plan.count(network)} evaluations per scroll ({detail})")
    print(f"  time: about {plan.seconds:.1f} s per scroll, {plan.seconds * count:.0f} s for {count}")
    print(f"  memory: about {plan.peak_bytes / 2**30:.2f} GiB")
    print(f"  (rehearsed in {plan.rehearsal_seconds:.1f} s on {session.family.device})")
    return 0
