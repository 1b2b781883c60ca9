"""FlexIP in ComfyUI: three nodes. Link this folder into ComfyUI's `custom_nodes`, as README.md says."""

from .nodes import ApplyFlexIP, EncodeFlexIP, LoadFlexIP

NODE_CLASS_MAPPINGS = {"FlexIPLoad": LoadFlexIP, "FlexIPEncode": EncodeFlexIP, "FlexIPApply": ApplyFlexIP}
NODE_DISPLAY_NAME_MAPPINGS = {
    "FlexIPLoad": "Load FlexIP checkpoint",
    "FlexIPEncode": "Encode FlexIP subject",
    "FlexIPApply": "Apply FlexIP",
}
