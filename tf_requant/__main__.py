"""`python -m tf_requant` is the same as `tf_requant`."""

from tf_requant.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
