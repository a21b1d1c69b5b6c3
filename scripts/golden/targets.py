"""Golden targets of adapters: the linear layers that "all" means.

Proves: `--lora-target all` resolves on every family as LLaMA-Factory's `lora_target: all` and PEFT's `all-linear`.
In mixtures of experts PEFT's also takes routers and experts.

Run:     python scripts/golden/targets.py LLAMAFACTORY      (0.9.5; transformers 5.24, peft 0.21.2)
         LLAMAFACTORY is the directory of the Python package llamafactory, one function of which is run.
Writes:  tests/golden/targets.json: {MODEL_TYPE: {"llama_factory": last names of modules,
             "peft": last names of modules, "peft_parameters": names of bare parameters}}
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import auto_class, families

OUT = Path(__file__).parents[2] / "tests/golden/targets.json"


def find_all_linear_modules(package: Path):  # noqa: ANN201 (the function of another program)
    """LLaMA-Factory's function, which freezes the parts that read images."""
    source = package / "model/model_utils/misc.py"
    wanted = [node for node in ast.parse(source.read_text()).body if getattr(node, "name", "") == "find_all_linear_modules"]
    wanted[0].returns = None
    for argument in wanted[0].args.args:
        argument.annotation = None
    composite = SimpleNamespace(projector_keys=["multi_modal_projector"], vision_model_keys=["vision_tower"])
    scope: dict = {
        "COMPOSITE_MODELS": {"gemma3": composite, "mistral3": composite},
        "logger": SimpleNamespace(info_rank0=lambda _: None),
    }
    exec(compile(ast.Module(wanted, []), str(source), "exec"), scope)
    return lambda model: scope["find_all_linear_modules"](model, True)


def last_names(names: list[str]) -> list[str]:
    """The last parts of paths, each once, sorted."""
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def main() -> None:
    """Ask both about every model."""
    all_linear = find_all_linear_modules(Path(sys.argv[1]))
    configs = {config.model_type: config for config in families().values()}
    found = {}
    for model_type, config in sorted(configs.items()):
        with torch.device("meta"):
            model = auto_class(config).from_config(config)
        theirs = last_names(all_linear(model))
        options = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        peft = get_peft_model(model, options).peft_config["default"]
        found[model_type] = {
            "llama_factory": theirs,
            "peft": last_names(list(peft.target_modules)),
            "peft_parameters": sorted(peft.target_parameters or []),
        }
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items())
    OUT.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
