"""Nodes for ComfyUI: put this folder, or a link to it, into ComfyUI's custom_nodes (docs/comfyui.md)."""

from .nodes import Blueprint, Model, PaintAlong, Scroll

NODE_CLASS_MAPPINGS = {
    "DRSPOModel": Model,
    "DRSPOScroll": Scroll,
    "DRSPOBlueprint": Blueprint,
    "DRSPOPaintAlong": PaintAlong,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DRSPOModel": "DRSPO model",
    "DRSPOScroll": "DRSPO scroll",
    "DRSPOBlueprint": "DRSPO blueprint",
    "DRSPOPaintAlong": "DRSPO paint along",
}
