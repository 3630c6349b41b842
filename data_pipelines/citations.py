"""Papers that the data sets of TFDS cite, in BibTeX."""

HRM = """\
@article{wang2025hierarchical,
  title={Hierarchical Reasoning Model},
  author={Wang, Guan and Li, Jin and Sun, Yuhao and Chen, Xing and
          Liu, Changling and Wu, Yue and Lu, Meng and Song, Sen and
          Abbasi Yadkori, Yasin},
  journal={arXiv preprint arXiv:2506.21734},
  year={2025}
}
"""
