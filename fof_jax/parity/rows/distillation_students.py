"""The cases of the recorded student trainings, and the teacher's own forward pass."""

import dataclasses
from typing import Any

import jax

from fof_jax.methods.distill import crd, dgkd, features_kl, hkd, kl, student
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import distillation_banks as banks
from fof_jax.parity.rows import distillation_cases as cases
from fof_jax.parity.rows import distillation_networks as networks
from fof_jax.parity.rows import distillation_steps as steps
from fof_jax.parity.rows import torch_layout
from fof_jax.parity.rows.distillation_tolerances import grouped, row
from fof_jax.parity.rows.torch_layout import Recording
from fof_jax.types import Variables

COMMON = {"ce": "ce", "total": "total"}
SINGLE = {**COMMON, "kl0_raw": "kl"}
DOUBLE = {**SINGLE, "kl1_raw": "kl_ema"}
TWO_TEACHERS = ("sckd_batch", "gkm_xm2lr")
HEADS = {"dc": 0, "dc_ema": 1}


def rows_of(recording: Recording) -> list[Row]:
    """The rows trained from one start: KL, Feats KL, PKT, SP, RKD, CRD, HKD, two more.

    Source: methods/distillation.md, "Names" (kd_rows).
    """
    shared = {k: v.tolist() for k, v in torch_layout.under(recording, "cfg/").items()}
    names = dict.fromkeys(k.split("/")[0] for k in recording if "/cfg/" in k)
    compared: list[Row] = []
    for name in names:
        cfg = shared | torch_layout.config(recording, name)
        compared += steps.run(recording, _row(recording, name, cfg), cfg)
    return compared + _teacher_rows(recording, shared, "kl/", trains=True)


def sckd_sample(recording: Recording) -> list[Row]:
    """SCKD with a mask for each sample.

    Source: methods/distillation.md, "Names" (sckd_sample).
    """
    cfg = {k: v.tolist() for k, v in torch_layout.under(recording, "cfg/").items()}
    width = len(recording["init/fc_new1.0.bias"])
    relation = features_kl.FeaturesKL("r", cfg["beta"], head=False)
    method = student.Student(
        encoder=networks.Encoder(width),
        num_classes=len(recording["init/fc_new2.bias"]),
        teacher=cases.RecordedTeacher(),
        terms=(kl.term(weight=1.0, temperature=1.0), relation),
        rule="agrees_sample",
    )
    metrics = {**COMMON, "kl_per_sample": "kl", "feats_kl_per_sample": "r"}
    case = cases.Case("", method, {}, metrics, "batch{step}/")
    return steps.run(recording, case, cfg)


def dgkd_student(recording: Recording) -> list[Row]:
    """The DGKD student in three variants.

    Source: methods/distillation.md, "Names" (dgkd_student).
    """
    cfg = {k: v.tolist() for k, v in torch_layout.under(recording, "cfg/").items()}
    compared: list[Row] = []
    for variant in ("asrun", "noswap", "evalteacher"):
        if f"{variant}/step0/lr" not in recording:
            continue
        terms = _two_teachers(cfg, cfg["nce_k2"], swapped=variant == "asrun")
        method = _student(recording, terms, cfg, "cosine_sums")
        metrics = {**DOUBLE, "dc0_raw": "dc", "dc1_raw": "dc_ema"}
        outputs = f"{variant}/step{{step}}/teacher/"
        case = cases.Case(f"{variant}/", method, HEADS, metrics, outputs)
        compared += steps.run(recording, case, cfg)
        trains = variant != "evalteacher"
        compared += _teacher_rows(recording, cfg, f"{variant}/", trains=trains)
    return compared


def _row(recording: Recording, name: str, cfg: dict[str, Any]) -> cases.Case:
    outputs = "kl/step{step}/teacher/"
    if name in TWO_TEACHERS:
        terms = _two_teachers(cfg, None, swapped=False)
        rule: Any = "agrees_batch" if name == "sckd_batch" else "running_counts"
        method = _student(recording, terms, cfg, rule)
        metrics = {**DOUBLE, "r0_raw": "dc", "r1_raw": "dc_ema"}
        return cases.Case(f"{name}/", method, HEADS, metrics, outputs)
    terms = (kl.term(weight=float(cfg["alpha"]), temperature=float(cfg["kd_T"])),)
    heads: dict[str, int] = {}
    if name != "kl":
        terms = (*terms, _relation(recording, name, cfg))
    if name in ("crd", "hkd"):
        heads = {"r": 0}
    method = _student(recording, terms, cfg, "sum")
    metrics = SINGLE if name == "kl" else {**SINGLE, "r0_raw": "r"}
    return cases.Case(f"{name}/", method, heads, metrics, outputs)


def _relation(recording: Recording, name: str, cfg: dict[str, Any]) -> Any:
    if name not in ("crd", "hkd"):
        return cases.relation(name, cfg["beta"])
    options = {
        "name": "r",
        "weight": cfg["beta"],
        "tau": cfg["nce_t"],
        "negatives": cfg["nce_k"],
        "width": len(recording[f"{name}/init/heads/0.embed_s.linear.bias"]),
    }
    if name == "hkd":
        return hkd.HKD(**options)
    return crd.CRD(
        **options, momentum=cfg["nce_m"], ramp_epochs=int(cfg["niter_decay"])
    )


def _two_teachers(cfg: dict[str, Any], kept: int | None, *, swapped: bool) -> Any:
    alpha, temperature = float(cfg["alpha"]), float(cfg["kd_T"])
    options = {
        "weight": cfg["beta"],
        "tau": cfg["nce_t"],
        "momentum": cfg["nce_m"],
        "negatives": cfg["nce_k"],
        "kept_negatives": kept,
        "positives": cfg["nce_p"],
        "kept_positives": cfg["nce_p2"],
        "mode": cfg["select_pos_mode"],
        "swapped": swapped,
    }
    return (
        kl.term(weight=alpha, temperature=temperature),
        kl.term(weight=alpha, temperature=temperature, source="ema"),
        banks.RecordedDC(name="dc", **options),
        banks.RecordedDC(name="dc_ema", source="ema", **options),
    )


def _student(
    recording: Recording, terms: Any, cfg: dict[str, Any], rule: Any
) -> student.Student:
    return student.Student(
        encoder=networks.Encoder(len(recording["init/student/fc_new1.0.bias"])),
        num_classes=len(recording["init/student/fc_new2.bias"]),
        teacher=cases.RecordedTeacher(),
        terms=terms,
        rule=rule,
        factor=float(len(terms)) if rule == "agrees_batch" else 1.0,
        threshold=cfg.get("thresh", 0.1),
        momentum=cfg.get("grads_m", 0.5),
        ema_decay=cfg["ema_decay"],
        independent_average=True,
    )


def _teacher_rows(
    recording: Recording, cfg: dict[str, Any], prefix: str, *, trains: bool
) -> list[Row]:
    """The teacher's outputs and drifting statistics, by our own network."""
    tensors = torch_layout.under(recording, "init/teacher/")
    ours = networks.variables(tensors, networks.TEACHER_LAYERS)
    method = dgkd.DGKD(
        network=networks.teacher_network(tensors, cfg),
        classes=len(tensors["classifier.0.bias"]),
    )
    variables = Variables(
        params=ours["params"], state={"batch_stats": ours["batch_stats"]}, frozen={}
    )

    @jax.jit
    def forward(variables: Variables, batch: Any, masks: Any) -> Any:
        if not trains:
            return method.apply(variables, batch), variables.state
        with networks.dropping(masks):
            return method.apply_train(variables, batch, lambda x: x, jax.random.key(0))

    compared: list[Row] = []
    for step in range(cfg["steps"]):
        z = torch_layout.under(recording, f"{prefix}step{step}/")
        masks = networks.masks(recording, f"{prefix}step{step}/mask/teacher/")
        batch = networks.batch_of(recording, step, 0)
        out, state = forward(variables, batch, masks)
        variables = dataclasses.replace(variables, state=state)
        for name, value in (
            ("fuse_feat", out.features),
            ("logits_fuse", out.logits),
        ):
            theirs = z[f"teacher/{name}"]
            at = f"{name}, step {step}"
            compared.append(
                row("teacher outputs", value, theirs, "step output", where=at)
            )
        collections = {"params": variables.params, "batch_stats": state["batch_stats"]}
        compared += networks.after_rows(
            "teacher",
            torch_layout.under(z, "after/teacher/"),
            collections,
            networks.TEACHER_LAYERS,
            "parameter, teacher",
            f"step {step}",
        )
    return grouped(compared, prefix.replace("/", " "))
