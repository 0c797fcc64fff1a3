# Sourced by each peer's `install`: programs, and a virtual environment with exactly the packages of a list.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
peers=$root/loadtest/peers
cache=$root/.cache/peers

# Triton's backend is linked to Debian's Python 3.11. All peers run on that one, so that all have the same interpreter.
python=/usr/bin/python3.11

install_python() {
    local missing=() get=(env DEBIAN_FRONTEND=noninteractive apt-get)
    [ -x $python ] || missing+=(python3.11)
    $python -c 'import ensurepip' 2>/dev/null || missing+=(python3.11-venv)
    [ -e /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0 ] || missing+=(libpython3.11)
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || get=(sudo "${get[@]}")
    "${get[@]}" update -qq >&2
    "${get[@]}" install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# Installs the packages of a list into a new virtual environment, unless the existing one was made from the same list.
install_packages() {
    local list=$1 venv=$2
    cmp -s "$list" "$venv/requirements.txt" && return
    install_python
    rm -rf "$venv" && mkdir -p "$(dirname "$venv")" && $python -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --requirement "$list" >&2
    cp "$list" "$venv/requirements.txt"
}

# Installs one peer: its packages, the models, and prints a line that says what is there.
install_peer() {
    local name=$1 package=$2
    install_packages "$peers/$name/requirements.txt" "$cache/$name/venv"
    "$peers/models"
    echo "$name $("$cache/$name/venv/bin/python" -c "import importlib.metadata as m; print(m.version('$package'))")"
}
