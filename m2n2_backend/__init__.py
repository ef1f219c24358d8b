"""M2N2: clicks to masks without training, served to Label Studio.

Source of the method: Karmann & Urfalioglu, "Repurposing Stable Diffusion Attention for Training-Free
Unsupervised Interactive Segmentation", CVPR 2025.
"""

__version__ = "0.1.0"
