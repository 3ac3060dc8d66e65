import pytest

from ftkit.common.errors import KitError
from ftkit.common.paths import expanded
from ftkit.data.formats.read import read_table
from ftkit.data.task import load_task
from ftkit.models.encoder import find_encoder
from ftkit.models.find import find_model, full_name, public_name
from ftkit.training.plan import model_shape

NOBODY = "~nobody-of-that-name/models/mine"


@pytest.mark.parametrize("use", [expanded, find_model, full_name, model_shape, read_table, load_task])
def test_a_home_that_is_not_there_is_one_clear_error(use):
    with pytest.raises(KitError, match="~nobody-of-that-name is no home folder here"):
        use(NOBODY)


def test_the_home_folder_is_found_and_kept_out_of_public_names(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert find_model("~/mine").path == tmp_path / "mine" and full_name("~/mine") == str(tmp_path / "mine")
    assert public_name("~/mine") == "mine" and public_name("owner/mine") == "owner/mine"
    monkeypatch.setenv("FTKIT_ENCODER", "~/mine")
    assert find_encoder() == tmp_path / "mine"
    monkeypatch.setenv("FTKIT_ENCODER", NOBODY)
    with pytest.raises(KitError, match="no home folder"):
        find_encoder()
