"""A page about one run or many, and figures for papers: what is drawn is data first, and has two renderers."""
