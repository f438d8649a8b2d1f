"""What is known of loralib 0.1.2, with torch 2.13.0, on a CPU."""

from ..library import Reason, Verdicts

RSLORA = Reason("absent", "loralib has no rsLoRA")
INIT = Reason("absent", "loralib initialises A with Kaiming's uniform distribution alone")
DROPOUT = Reason("absent", "loralib.Embedding has no dropout")

VERDICTS: Verdicts = {
    "lora_init/linear-gaussian/*": ("absent", INIT),
    "lora_dropout/embedding/*": ("absent", DROPOUT),
    "lora_dropout/linear-rslora/*": ("absent", RSLORA),
    "lora_linear/*rslora/*": ("absent", RSLORA),
    "lora_merge/*rslora/*": ("absent", RSLORA),
    "lora_embedding/*rslora/*": ("absent", RSLORA),
    "train_steps/sgd-accumulated/*": ("absent", RSLORA),
}
