"""Jupyter in this project only (`make lab`): a notebook is cleaned as it is saved, so saving without an edit changes nothing."""
from typing import Any

from nbdev.clean import clean_nb
from nbdev.config import get_config as project_settings


def clean_on_save(model: dict[str, Any], **_: Any) -> None:
    "Before a notebook is written, do what `make export` would do to it: remove execution counts and editor state."
    if model["type"] != "notebook" or model["content"]["nbformat"] != 4:
        return
    settings = project_settings()
    clean_nb(model["content"], settings.clear_all, settings.allowed_metadata_keys.split(),
             settings.allowed_cell_metadata_keys.split(), settings.clean_ids)


c = get_config()  # noqa: F821  (given by Jupyter)
c.ContentsManager.pre_save_hook = clean_on_save
c.LabApp.default_url = "/lab/tree/nbs/index.ipynb"
