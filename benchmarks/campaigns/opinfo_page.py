def page(runs): return ""
