#!/usr/bin/env bash
# transformers 5.24.0 with accelerate 1.15.0: `Trainer` divides the loss of a micro-batch by `gradient_accumulation_steps` only where the model's
# `forward` has no `**kwargs`. Where it has them, the model is expected to divide by `num_items_in_batch`. The loss of several labels for one
# picture (`problem_type="multi_label_classification"`, as for the findings of a chest X-ray) and of a regression never do, nor does the
# segmentation of SegFormer, nor ResNet with one label. With 4 steps the loss that is printed and the gradient are then 4 times those of the
# same 16 pictures in one batch, without an error or a warning: plain SGD steps 4 times too far, and `max_grad_norm` cuts other gradients.
# ViT with one label and ConvNeXt, which declares `accepts_loss_kwargs = False`, are right.
#
# Seen: the printed loss and the norm of the gradient in 4 batches of 4, over those of one batch of 16:
#       ViT, one label: loss 1.00, gradient 1.00
#       ViT, several labels: loss 4.00, gradient 4.00
#       ViT, regression: loss 4.00, gradient 4.00
#       DINOv2, several labels: loss 4.00, gradient 4.00
#       ConvNeXt, several labels: loss 1.00, gradient 1.00
#       ResNet, one label: loss 4.00, gradient 4.00
#       BERT, several labels: loss 4.00, gradient 4.00
#       SegFormer, one label a pixel: loss 4.00, gradient 4.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/train.py" <<'PYTHON'
import contextlib
import io
import sys
import warnings
import torch
import transformers as tf

warnings.simplefilter("error")
PICTURES, LABELS = 16, 5
draw = torch.Generator().manual_seed(0)
pictures = {"pixel_values": torch.randn(PICTURES, 3, 32, 32, generator=draw)}
words = {"input_ids": torch.randint(1, 50, (PICTURES, 8), generator=draw)}
one = torch.randint(0, LABELS, (PICTURES,), generator=draw)
several = torch.randint(0, 2, (PICTURES, LABELS), generator=draw).float()
number = torch.randn(PICTURES, generator=draw)
pixels = torch.randint(0, LABELS, (PICTURES, 32, 32), generator=draw)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, **NO_DROPOUT}
PATCHES = {"image_size": 32, "patch_size": 16}
FOUR = {"depths": [1] * 4, "hidden_sizes": [8] * 4}
SEVERAL = {"num_labels": LABELS, "problem_type": "multi_label_classification"}
CASES = {
    "ViT, one label": (tf.ViTForImageClassification, tf.ViTConfig(**SMALL, **PATCHES, num_labels=LABELS), pictures, one),
    "ViT, several labels": (tf.ViTForImageClassification, tf.ViTConfig(**SMALL, **PATCHES, **SEVERAL), pictures, several),
    "ViT, regression": (tf.ViTForImageClassification, tf.ViTConfig(**SMALL, **PATCHES, num_labels=1), pictures, number),
    "DINOv2, several labels": (tf.Dinov2ForImageClassification, tf.Dinov2Config(**SMALL, **PATCHES, **SEVERAL), pictures, several),
    "ConvNeXt, several labels": (tf.ConvNextForImageClassification, tf.ConvNextConfig(**FOUR, **SEVERAL), pictures, several),
    "ResNet, one label": (tf.ResNetForImageClassification, tf.ResNetConfig(**FOUR, embedding_size=8, num_labels=LABELS), pictures, one),
    "BERT, several labels": (tf.BertForSequenceClassification, tf.BertConfig(**SMALL, vocab_size=50, **SEVERAL), words, several),
    "SegFormer, one label a pixel": (tf.SegformerForSemanticSegmentation, tf.SegformerConfig(
        **FOUR, **NO_DROPOUT, num_attention_heads=[1] * 4, decoder_hidden_size=16, num_labels=LABELS, drop_path_rate=0.0,
        classifier_dropout_prob=0.0), pictures, pixels),
}


class InOrder(tf.Trainer):
    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def first_step(kind, config, inputs, labels, steps):
    """The printed loss and the norm of the gradient of one optimizer step on all rows."""
    torch.manual_seed(0)
    model = kind(config)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval().train = lambda _=True: module  # the statistics of a batch depend on its size
    rows = [{name: values[i] for name, values in inputs.items()} | {"labels": labels[i]} for i in range(PICTURES)]
    arguments = tf.TrainingArguments(
        output_dir=sys.argv[1], per_device_train_batch_size=PICTURES // steps, gradient_accumulation_steps=steps, max_steps=1, optim="sgd",
        max_grad_norm=1e9, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False)
    trainer = InOrder(model=model, args=arguments, train_dataset=rows)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return trainer.state.log_history[0]


for name, case in CASES.items():
    whole, parts = (first_step(*case, steps) for steps in (1, 4))
    print(f"{name}: loss {parts['loss'] / whole['loss']:.2f}, gradient {parts['grad_norm'] / whole['grad_norm']:.2f}", flush=True)
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.6 2> /dev/null
export OMP_NUM_THREADS=1
seen=$(HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/train.py" "$folder/out" 2> "$folder/errors") || { tail -5 "$folder/errors"; exit 1; }
echo "$seen"
[ "$seen" = "ViT, one label: loss 1.00, gradient 1.00
ViT, several labels: loss 4.00, gradient 4.00
ViT, regression: loss 4.00, gradient 4.00
DINOv2, several labels: loss 4.00, gradient 4.00
ConvNeXt, several labels: loss 1.00, gradient 1.00
ResNet, one label: loss 4.00, gradient 4.00
BERT, several labels: loss 4.00, gradient 4.00
SegFormer, one label a pixel: loss 4.00, gradient 4.00" ] || { echo "the behaviour has changed" >&2; exit 1; }
