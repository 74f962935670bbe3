"""The contract of a model, and which version of it is live. The files, in the order that a model passes them:

errors       everything that can go wrong
settings     where the registry and its cache are; `environment`: how settings are declared and read
extras       how packages that are no dependencies are installed
patterns     texts that are keys, paths or numbers, matched whole
redaction    what no text of other software may carry
own_folder   folders of one user alone; `held_folder`s do not outlive their process, `atomic_file`s are replaced whole
child_process  processes of our own: what they import, and what of the environment they get
heads        the tasks, their AutoModel classes, and which architectures have them
suggestions  base models that suit a task
served_classes  which classes of transformers can be served
checkpoint_files  the JSON files of a checkpoint, each value checked for its type
weight_files  whether weights and other files arrived whole
refusals     whatever a library raises over a checkpoint becomes a refusal
checks       what a checkpoint must be: its own head, all of its weights, nothing executable
loaded_weights  what loading reports of the weights
saved_processors  loads the tokenizer or image processor of a checkpoint
processors   what a tokenizer tells the contract; `fast_tokenizers`: the fast form that some lack
image_settings  how an image becomes pixels
sentence_folder  what makes a text's vector of its states, from `sentence_files`
stated_limits  how long a row may be, by tokenizer and model
contract     the record that serving reads; `contract_upgrade`: of earlier releases
int8_sample  the sample on which int8 is compared
transformers_flavor  contracts of what plain MLflow logged; `sentence_flavor`, of sentence-transformers
adapter_files  the folder of an adapter, as it is read and checked without its base
adapter_base  the model that an adapter was trained on, with the task's head
adapters     merges an adapter into its base, and compares the two
plain_files  the one way to a file of an artifact: plain names, no links, bounded sizes
digests      sha256 of the files
verified     opens an artifact for loading, through descriptors of the files that were hashed
layout       names in the artifact
signatures   who logged an artifact, by OpenSSF model-signing
artifact     the `MLmodel` file: the contract in it, and what MLflow reads
staging      makes an artifact: saves, loads again, checks, asks the example, writes the contract
flavor       the MLflow flavor: log a model with its contract and register it
imports      import MLflow, and other large libraries, sooner
tracking     the way to MLflow
references   how a user names a model: name, name@alias, name/version
history      the written history of alias moves
versions     resolve, promote, roll back
model_tags   the tags of models, in which records are kept
model_search registered models by name or tag
deployments  which models are marked as deployed
download     copies files from MLflow's artifact store
cache_folder whose the cache is, what is being downloaded, and what leaves
cache        verified artifacts on this machine
gates        what a version must pass before an alias moves to it
rollout/     a candidate that gets a growing share of requests: its plan, guards and state

Importing the package loads neither mlflow nor torch nor transformers.
"""

from typing import Any

__all__ = [
    "Contract",
    "Evaluation",
    "Move",
    "PromotionRefused",
    "Reference",
    "RegistrySettings",
    "Versions",
    "find_differences",
    "log_model",
]

_HOMES = {
    "Contract": "registry.contract",
    "Evaluation": "registry.history",
    "Move": "registry.history",
    "PromotionRefused": "registry.errors",
    "Reference": "registry.references",
    "RegistrySettings": "registry.settings",
    "Versions": "registry.versions",
    "find_differences": "registry.gates",
    "log_model": "registry.flavor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
