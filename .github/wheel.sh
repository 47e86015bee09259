#!/usr/bin/env bash
# Builds the wheel, installs it into an environment of its own, asks pyright there whether every type of it is known, and
# runs tests, with src/ out of reach: `.github/wheel.sh PYTHON FOLDER`. FOLDER must not exist yet.
set -euo pipefail
python=$1
folder=$2
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir "$folder"
folder=$(cd "$folder" && pwd)

"$python" -m venv "$folder/venv"
bin="$folder/venv/bin"
"$bin/pip" wheel --quiet --no-deps --wheel-dir "$folder/dist" "$root"
wheel=$(ls "$folder"/dist/carpool-*.whl)

# First as a user has it, without any extra: the library must be there whole, and the command must say what it needs.
"$bin/pip" install --quiet "$wheel"
cd "$folder"
"$bin/python" -c 'import carpool; assert "site-packages" in carpool.__file__; print(carpool.Pool(api_key="any"))'
"$bin/carpool" --version && exit 1 || test $? -eq 2

# Then with what the tests need. They lie beside what they read, which is all but the sources.
"$bin/pip" install --quiet "$wheel[test]" 'pyright[nodejs]==1.1.414'
PATH="$bin:$PATH" "$bin/pyright" --verifytypes carpool --ignoreexternal | tee types | tail -n 3
grep -q '^Type completeness score: 100%$' types
mkdir copy
cp -R "$root"/{tests,docs,examples,benchmarks,README.md,CHANGELOG.md,CONTRIBUTING.md,SECURITY.md,pyproject.toml,mkdocs.yml} copy/
cd copy
"$bin/python" tests/vocabulary.py
"$bin/python" -m pytest -q -k 'not benchmark' tests/docs tests/test_loopback.py tests/test_pytest_plugin.py tests/test_bridge.py \
    tests/test_durable_threads.py tests/cli/test_app.py tests/cli/test_run_command.py
