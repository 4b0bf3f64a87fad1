"""A model card as the Hugging Face Hub reads it: front matter, card, a snippet."""

import json
from pathlib import Path
from typing import Any

from fof_jax.evaluation import metrics, tables
from fof_jax.inference import load

# What loads the files -> how, with the address of the repository.
_SNIPPETS = {
    "fof-jax": """
import fof_jax

model = fof_jax.load("hf:{repo}")
print(model.predict(["a.png"]).pred)
""",
    "transformers": """
from transformers import pipeline

grade = pipeline("image-classification", model="{repo}")
print(grade("a.png"))
""",
}


def with_front_matter(
    card: str,
    checkpoint: Path,
    *,
    license_name: str,
    library: str = "fof-jax",
    repo: str | None = None,
) -> str:
    """A card with front matter and, of a pushed model, a snippet that loads it.

    Args:
      card: Markdown of `model_card`.
      checkpoint: the run, fold or exported file; its results.json gives the metrics.
      license_name: identifier of the license; "unknown" is the hub's word for none.
      library: `library_name`: what loads the files.
      repo: OWNER/NAME where the model is loaded from; None for no snippet.
    """
    about: dict[str, Any] = {
        "license": license_name,
        "library_name": library,
        "pipeline_tag": "image-classification",
        "tags": ["pathology", "glioma", "research-use-only"],
        "metrics": ["accuracy", "roc_auc"],
    }
    results = _results(checkpoint)
    if results:
        about["model-index"] = [_index(results)]
    # JSON is YAML, so that values with colons and quotes need no rules of their own.
    lines = [f"{name}: {json.dumps(value)}" for name, value in about.items()]
    code = _SNIPPETS[library].format(repo=repo) if repo else ""
    snippet = f"\n## Usage\n\n```python{code}```\n" if code else ""
    return "\n".join(["---", *lines, "---", "", card]) + snippet


def _index(results: dict[str, Any]) -> dict[str, Any]:
    """Cross-validated micro averages per unit, as the hub's `model-index`."""
    split = tables.SPLIT_DESCRIPTIONS.get(results["scheme"], results["scheme"])
    found = []
    for unit, of_unit in metrics.units_with_results(results):
        mean = of_unit["micro"]["mean"]
        values = [
            {"type": type_, "name": f"micro {name} per {unit}", "value": mean[key]}
            for type_, name, key in (
                ("accuracy", "accuracy", "accuracy"),
                ("roc_auc", "AUC", "auc"),
            )
            if mean[key] == mean[key] and mean[key] is not None
        ]
        found.append(
            {
                "task": {"type": "image-classification"},
                "dataset": {"type": "images", "name": f"test folds, {split}"},
                "metrics": values,
            }
        )
    return {"name": results["method"], "results": found}


def _results(checkpoint: Path) -> dict[str, Any]:
    file = load.find_upward(checkpoint, "results.json")
    return json.loads(file.read_text(encoding="utf-8")) if file else {}
