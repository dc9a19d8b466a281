#!/usr/bin/env bash
# Installs the locked environment and this project (editable), and proves that it works. Instant when nothing changed.
#
#   cluster/images/install.sh cpu|gpu VENV [dev|aws|gcp|azure|harness|clients|docs]
#
# dev: the tools of tests and checks too. A cloud: what starts a cluster there and reads its object store.
# harness: lmms-eval too, in an environment VENV-harness that lies over VENV.
# clients: LLaMA-Factory and ms-swift, with which tests read exported pairs and train on them, likewise in VENV-clients.
# docs: what `make docs` needs, in an environment VENV-docs of its own; nothing else is installed.
#
# Needs Python 3.11 (python3.11 or python3, or PYTHON=/path/to/it) and, for cpu, a pip that finds torch's CPU build,
# see README.md. DeepSpeed builds a small operator when it first trains: g++ must be there then.
set -euo pipefail

usage="usage: install.sh cpu|gpu VENV [dev|aws|gcp|azure|harness|clients|docs]"
target=${1:?$usage}
venv=${2:?$usage}
extra=${3:-}
[[ $target =~ ^(cpu|gpu)$ && $extra =~ ^(dev|aws|gcp|azure|harness|clients|docs)?$ ]] || { echo "$usage" >&2; exit 2; }
images=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$venv/bin/python

say() { echo "install: $*" >&2; }
fail() { say "$*"; exit 1; }
pip() { "$python" -m pip --disable-pip-version-check -qq "$@"; }

# What a lock's installation depends on; kept in the environment once that lock is installed and proven.
checksum() { { echo "$images"; cat "$images"/{"$1.lock",install.sh,_torchvision_ops.py}; } | sha256sum; }
changed() { [[ ! -x $python || $(cat "$venv/$1.installed" 2>/dev/null) != "$(checksum "$1")" ]]; }
installed() { checksum "$1" >"$venv/$1.installed"; }

create_venv() {
    "$python" -m pip --version >/dev/null 2>&1 && return
    local base
    for base in ${PYTHON:-python3.11 python3}; do
        "$base" -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" 2>/dev/null || continue
        "$base" -m venv --clear "$venv"
        return
    done
    fail "needs Python 3.11, and ${PYTHON:-neither python3.11 nor python3} is not it; set PYTHON=/path/to/python3.11"
}

# setuptools first: it builds DeepSpeed, which comes as source. --no-build-isolation, so that the lock says which.
install_lock() {
    say "$(grep -c ^[a-z].*== "$images/$1.lock") packages from $1.lock (minutes, the first time) ..."
    local setuptools
    setuptools=$(grep ^setuptools== "$images/$1.lock" || true)
    [[ -z $setuptools ]] || pip install "$setuptools"
    pip install --no-deps --no-build-isolation -r "$images/$1.lock"
}

# torch's CUDA build cannot be imported without NVIDIA's libraries, and only gpu.lock brings these.
check_torch() {
    "$python" -c "import torch" 2>/dev/null && return
    pip uninstall -y torch torchvision
    fail "the torch that pip found cannot be imported here: without a GPU, set PIP_EXTRA_INDEX_URL to PyTorch's index" \
        "of CPU builds (see README.md) and run this again"
}

fix_torchvision() {
    local site error
    site=$("$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    rm -f "$site/torchvision_ops.pth" "$site/_torchvision_ops.py"
    error=$("$python" -c "import torchvision" 2>&1) && return
    [[ $error == *"operator torchvision::nms does not exist"* ]] || fail "torchvision fails: ${error##*$'\n'}"
    say "torchvision's operators are built for another torch: declaring them in every process of this environment"
    cp "$images/_torchvision_ops.py" "$site/"
    echo "import _torchvision_ops" >"$site/torchvision_ops.pth"
}

# Where pip is told of CPU builds, `torch==2.13.0` is torch 2.13.0+cpu, with which everything can be imported.
check_cuda() {
    local build
    build=$("$python" -c "import torch; print(torch.version.cuda or torch.__version__)")
    [[ $build != *cpu* ]] && return
    pip uninstall -y torch torchvision
    fail "pip took torch $build, which is built for CPUs; see that no index or link of CPU builds is in pip's reach" \
        "(pip config list shows them) and run this again"
}

prove() {
    local log=$venv/prove.log # what libraries say while they are imported, shown only if one fails
    "$python" -W ignore - 2>"$log" <<'PYTHON' || { cat "$log" >&2; fail "a library cannot be imported"; }
import contextlib
import importlib
import sys

with contextlib.redirect_stdout(sys.stderr):
    names = ("torch", "vllm", "torchvision", "transformers", "trl", "deepspeed", "ray", "diffusers")
    versions = [f"{name} {importlib.import_module(name).__version__}" for name in names]
    import seva_ray
print(*versions, sep=", ")
PYTHON
}

# Python looks here first, and in the first environment for what is not here: torch, transformers and the like.
lie_over_first() { # NAME IMPORTS: what the environment is for, and what proves it
    local purelib="import sysconfig; print(sysconfig.get_path('purelib'))"
    echo "import site; site.addsitedir('$("$first" -c "$purelib")')" >"$("$python" -c "$purelib")/first.pth"
    if [[ $1 == clients ]]; then # LLaMA-Factory imports it for audio; there is no build of it beside a CPU torch
        echo '"""Nothing here reads audio."""' >"$("$python" -c "$purelib")/torchaudio.py"
    fi
    DISABLE_VERSION_CHECK=1 "$python" -W ignore -c "import $2" >"$venv/prove.log" 2>&1 && return
    cat "$venv/prove.log" >&2
    fail "$1: $2 cannot be imported"
}

if [[ $extra == docs ]]; then # it reads the code as text, and so needs none of its libraries
    venv+=-docs
    python=$venv/bin/python
    if changed docs; then
        create_venv
        install_lock docs
        installed docs
    fi
    exit
fi
if [[ $target == gpu ]]; then # the CUDA builds are on the default index
    export PIP_FIND_LINKS='' PIP_EXTRA_INDEX_URL=''
fi
if changed "$target"; then
    create_venv
    install_lock "$target"
    check_torch
    [[ $target != gpu ]] || check_cuda
    fix_torchvision
    pip install --no-deps --no-build-isolation -e "$images/../.."
    prove
    installed "$target"
fi
case $extra in
harness | clients)
    first=$python
    venv+=-$extra
    python=$venv/bin/python
    if changed "$extra"; then
        "$first" -m venv --clear "$venv"
        install_lock "$extra"
        [[ $extra == harness ]] && proof=lmms_eval.models.chat.llava_hf || proof="llamafactory.train.dpo, swift.rlhf_trainers"
        lie_over_first "$extra" "$proof"
        installed "$extra"
    fi
    ;;
?*)
    if changed "$extra"; then
        install_lock "$extra"
        installed "$extra"
    fi
    ;;
esac
