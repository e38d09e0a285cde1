#!/usr/bin/env bash
# Transformers 5.17.0 without torchvision: `transformers.AutoImageProcessor` is a placeholder that only raises ImportError, although the same
# release has an image processor for this folder that needs Pillow alone, and the class of the same name in its own module loads it.
# From 5.18.0 on both load it. A program that supports 5.17 must import the class from its module.
#
# Seen: 5.17.0 top: ImportError, module: Qwen2VLImageProcessorPil
#       5.18.0 top: Qwen2VLImageProcessorPil, module: Qwen2VLImageProcessorPil
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/processor"
echo '{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}' \
  > "$folder/processor/preprocessor_config.json"
cat > "$folder/load.py" <<'PYTHON'
import sys
import transformers
from transformers.models.auto.image_processing_auto import AutoImageProcessor


def load(factory):
    try:
        return type(factory.from_pretrained(sys.argv[1])).__name__
    except ImportError as error:
        return type(error).__name__


print(transformers.__version__, "top:", load(transformers.AutoImageProcessor) + ",", "module:", load(AutoImageProcessor))
PYTHON
expected() { printf '%s top: %s, module: Qwen2VLImageProcessorPil' "$1" "$2"; }
python3 -m venv "$folder/venv"
for case in "5.17.0 ImportError" "5.18.0 Qwen2VLImageProcessorPil"; do
  read -r version top <<< "$case"
  "$folder/venv/bin/pip" install --quiet "transformers==$version" pillow==13.0.0 numpy==2.4.6 2> /dev/null
  seen=$(HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/load.py" "$folder/processor" 2> /dev/null)
  echo "$seen"
  [ "$seen" = "$(expected "$version" "$top")" ] || { echo "changed: expected $(expected "$version" "$top")" >&2; exit 1; }
done
