"""Stage 05, deployment: merged models, every road out of a run, the demo and what visitors say of it.

Read `merge`, `proof` (does it still answer the same?), `fidelity`, `roads/` (a module a road), then `space`, `demo_page`,
`chat_page` (its conversations), `form`, `feedback` and `gatekeeper` (what stands between the demo and strangers); `beside`
trains a model while the demo serves another, and `training_page` shows it. Lesson 05 builds it.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "merge": "load_folder merged_model save_merged",
        "proof": "agreement answering timed",
        "fidelity": "describe_fidelity load_fidelity",
        "roads.export": "ROADS export size_mb",
        "roads.ollama": "modelfile",
        "roads.server": "serve_command",
        "demo_page": "answer_card",
        "feedback": "CORRECTED FeedbackFile add_feedback feedback_entry rows_of_feedback",
    },
)
