# Makes the virtual environment of the app in whose folder this runs. The last line tells when it was made.
set -e
python3 -m venv --clear .venv
.venv/bin/python3 -m pip install --quiet --disable-pip-version-check --only-binary :all: -r requirements.txt
touch .venv/installed
