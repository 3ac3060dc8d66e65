import pytest
import torch

from ftkit.common.errors import KitError
from ftkit.common.machine import Hardware, resolve_dtype
from ftkit.common.profiles import choose_profile, read_profiles

CPU = Hardware("cpu", "2 CPU cores", 8)
T4 = Hardware("cuda", "Tesla T4", 14.6, (7, 5))
A100 = Hardware("cuda", "A100", 39.4, (8, 0))
H200 = Hardware("cuda", "H200", 139.8, (9, 0))
SMALL_AMPERE = Hardware("cuda", "RTX 3060", 11.6, (8, 6))
BIG_OLD = Hardware("cuda", "V100", 31.7, (7, 0))
TOO_SMALL = Hardware("cuda", "GTX 1650", 3.8, (7, 5))


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        (CPU, "cpu"),
        (T4, "t4"),
        (A100, "big"),
        (H200, "big"),
        (SMALL_AMPERE, "t4"),
        (BIG_OLD, "t4"),
        (TOO_SMALL, "cpu"),
    ],
)
def test_hardware_decides_and_the_reason_says_so(monkeypatch, hardware, name):
    monkeypatch.delenv("FTKIT_PROFILE", raising=False)
    choice = choose_profile(hardware=hardware)
    assert choice.profile.name == name
    assert hardware.name in choice.reason


def test_argument_goes_before_environment_before_hardware(monkeypatch):
    monkeypatch.setenv("FTKIT_PROFILE", "t4")
    assert choose_profile(hardware=H200).profile.name == "t4"
    assert "FTKIT_PROFILE" in choose_profile(hardware=H200).reason
    assert choose_profile("ci", hardware=H200).profile.name == "ci"


@pytest.mark.parametrize("origin", ["argument", "FTKIT_PROFILE"])
def test_an_unknown_profile_lists_the_known_ones(monkeypatch, origin):
    monkeypatch.setenv("FTKIT_PROFILE", "gpu")
    with pytest.raises(KitError, match=f"'gpu'.*{origin}.*cpu, ci, t4, big"):
        choose_profile("gpu" if origin == "argument" else None)


def test_bfloat16_only_where_it_is_native(monkeypatch):
    # is_bf16_supported() says yes on a T4, through emulation; the capability does not
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)
    assert resolve_dtype("auto", T4) == "float16"
    assert resolve_dtype("auto", A100) == "bfloat16"
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for native, dtype in ((True, "bfloat16"), (False, "float32")):
        for test in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, test, lambda native=native: native, raising=False)
        assert resolve_dtype("auto", CPU) == dtype
    assert resolve_dtype("float32", H200) == "float32"
    with pytest.raises(KitError, match="int8"):
        resolve_dtype("int8", CPU)


@pytest.mark.parametrize(
    ("capability", "limit", "dtype"),
    [("AVX512", "", "bfloat16"), ("AVX512", "AVX2", "float32"), ("AVX512", "avx512_core_bf16", "bfloat16"),
     ("AVX512", "ALL", "bfloat16"), ("AVX2", "ALL", "float32"), ("DEFAULT", "ALL", "float32")],
)  # fmt: skip
def test_a_limit_on_the_instructions_is_heeded(monkeypatch, capability, limit, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert resolve_dtype("auto", CPU) == dtype


def test_a_profile_inherits_and_the_later_value_wins():
    profiles = read_profiles()
    assert profiles["ci"].model == profiles["cpu"].model
    assert 0 < profiles["ci"].max_steps < 10
    assert profiles["cpu"].max_steps == -1


def test_a_misspelt_value_in_a_profile_is_named(tmp_path):
    path = tmp_path / "profiles.toml"
    path.write_text('[mine]\nmodle = "x"\n')
    with pytest.raises(KitError, match=r"profiles\.toml, profile \[mine\].*modle"):
        read_profiles(path)
    with pytest.raises(KitError, match="no rnak; it has"):
        read_profiles()["cpu"].with_changes(rnak=3)
