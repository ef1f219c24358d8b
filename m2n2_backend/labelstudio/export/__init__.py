"""A project's masks → COCO, YOLO, VOC, PNG or JSON files, without the prompts that were saved beside them."""
