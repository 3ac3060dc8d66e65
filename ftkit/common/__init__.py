"""What every stage needs: errors, paths, files, the machine and its profiles, figures. It imports no stage."""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "errors": "KitError",
        "paths": "cache_dir kit_root runs_dir",
        "files": "read_json",
        "machine": "Hardware detect_hardware resolve_dtype",
        "profiles": "choose_profile read_profiles",
    },
)
