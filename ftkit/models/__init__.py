"""Stage 01, the pre-trained model: known models, where one is found, loading it in 4 bits, and adapters put on it.

Read `catalog` (what is known of some models), `find` (where a model comes from), `tokenizer`, `load` (the model),
`chat_template` (what a template must do, and what is added where it does not), `four_bit` (what 4 bits change),
`families` (what single families of models do differently), `head` (logits where they are wanted), `adapter` (a saved
LoRA adapter on its base), `hub`, then `encoder` (optional). Lesson 01 builds it.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "find": "find_model prepare_model weights_digest",
        "load": "load_config load_model quiet_libraries",
        "tokenizer": "load_tokenizer",
        "four_bit": "dequantize keep_weights_unpacked linear_4bit_layers weight_bytes",
        "adapter": "load_adapter",
    },
)
