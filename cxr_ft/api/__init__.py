"""The functions behind `import cxr_ft`, a file an idea; `cxr_ft/__init__.py` loads them when they are first used."""
