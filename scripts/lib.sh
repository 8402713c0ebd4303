# Shared by the scripts of this folder: the environment they run in, and who they run as. Sourced by bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ "$(id -u)" = 0 ] && am_root=1 || am_root=
user=  # whom `as_user` acts as; nobody else

say() { printf '\033[1m%s\033[0m\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# has PROGRAM...: whether all of them are here
has() {
    local program
    for program in "$@"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" > /dev/null || return 1
    done
}

# install_packages PACKAGE...: Debian's, none of which is started as a service
install_packages() {
    [ -n "$am_root" ] && has apt-get || fail "Missing: $* (by Debian's names). Install them, or call this as root on Debian."
    say "Installing $*"
    (
        policy=/usr/sbin/policy-rc.d  # the packages ask it before they start a service
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' > "$policy"
            chmod 755 "$policy"
        fi
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" > /dev/null
    )
}

# An ordinary user must be able to read what root set up, which a checkout in root's home is not.
if [ -n "$am_root" ]; then
    env_dir=${SLURM_PROVISIONER_ENV:-/var/tmp/slurm-provisioner-env}
else
    env_dir=${SLURM_PROVISIONER_ENV:-$root/.venv}
fi

# The first Python >= 3.10 with venv that everybody can run (root's own, as of pyenv, cannot be run by others).
find_python() {
    local python
    for python in /usr/bin/python3 /usr/local/bin/python3 python3; do
        [ -n "$am_root" ] && [ "$python" = python3 ] && continue
        "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue
        echo "$python"
        return
    done
    return 1
}

ensure_python() {
    find_python > /dev/null && return
    install_packages python3 python3-venv
    find_python > /dev/null || fail "This system's python3 is older than 3.10."
}

# ensure_env EXTRAS: the environment with the package's dependencies, and the package as it stands in this checkout.
ensure_env() {
    local extras=$1 pip dependencies package
    ensure_python
    pip=("$env_dir/bin/python" -m pip install -q --disable-pip-version-check --root-user-action=ignore)
    dependencies=$(sha256sum < "$root/pyproject.toml")
    package=$(cd "$root" && find pyproject.toml README.md slurm_provisioner -type f ! -name '*.pyc' -print0 |
        sort -z | xargs -0 sha256sum | sha256sum)
    (
        umask 022
        mkdir -p "$env_dir"
        exec {lock}> "$env_dir/.lock"
        flock "$lock"  # two scripts may set it up at the same time
        if [ "$(cat "$env_dir/.dependencies-$extras" 2> /dev/null)" != "$dependencies" ]; then
            say "Setting up $env_dir"
            [ -x "$env_dir/bin/python" ] || "$(find_python)" -m venv "$env_dir"
            "${pip[@]}" hatchling
            "${pip[@]}" --no-build-isolation "$root[$extras]"
            echo "$dependencies" > "$env_dir/.dependencies-$extras"
        fi
        if [ "$(cat "$env_dir/.package" 2> /dev/null)" != "$package" ]; then
            "${pip[@]}" --no-build-isolation --no-deps --force-reinstall "$root"
            echo "$package" > "$env_dir/.package"
        fi
    )
}

# Docker with compose: the engine that answers, or on Debian one that is started here, and outlives this script unless
# `drop_docker` is called.
docker_is_ours=
ensure_docker() {
    has docker && { docker compose version || has docker-compose; } > /dev/null 2>&1 ||
        install_packages docker.io docker-compose
    ! docker info > /dev/null 2>&1 || return 0
    [ -n "$am_root" ] && has dockerd || fail "No Docker engine answers: start one, or call this as root."
    say "Starting the Docker engine"
    local seconds=0 log=/var/log/dockerd.log
    setsid dockerd > "$log" 2>&1 < /dev/null &
    docker_is_ours=1
    until docker info > /dev/null 2>&1; do
        [ $((seconds += 1)) -le 60 ] || { tail -n 20 "$log" >&2; fail "The Docker engine does not start."; }
        sleep 1
    done
}

drop_docker() {
    [ -n "$docker_is_ours" ] || return 0
    local pid
    pid=$(cat /var/run/docker.pid)
    docker_is_ours=
    kill "$pid"
    tail --pid="$pid" -f /dev/null  # until it has ended
}

# The browser of the tests; Playwright's own would be a download that not every machine may make.
ensure_chromium() {
    has chromium || install_packages chromium
}

# A network for a laptop, and what keeps those off a node who have no job there.
ensure_laptop() {
    local module
    for module in /lib/security /lib/*/security /usr/lib*/security /usr/lib/*/security; do
        if [ -e "$module/pam_slurm_adopt.so" ] && has ip; then
            return
        fi
    done
    install_packages iproute2 libpam-slurm-adopt
}

# Programs that even the tests need that call nothing else.
ensure_programs() {
    has ssh-keygen pgrep || install_packages openssh-client procps
}

# OpenSSH's server and programs, and login shells that are not like bash. The tests run a server of their own: none is
# started as a service.
ensure_ssh() {
    has sshd ssh ssh-agent tcsh fish || install_packages openssh-client openssh-server tcsh fish
}

# Kernels that are not the suite's own ipykernel: IRkernel, and in an environment of their own an ipykernel of the series
# before, bash_kernel, and xeus-python, which is made in C++.
ensure_kernels() {
    local wanted=("ipykernel<7" bash_kernel xeus-python) kernels=$env_dir/kernels
    if ! R --slave -e 'quit(status = !requireNamespace("IRkernel", quietly = TRUE))' > /dev/null 2>&1; then
        install_packages r-cran-irkernel
    fi
    [ "$(cat "$kernels/.installed" 2> /dev/null)" != "${wanted[*]}" ] || return 0
    say "Setting up $kernels"
    (
        umask 022
        "$(find_python)" -m venv "$kernels"
        "$kernels/bin/python" -m pip install -q --disable-pip-version-check --root-user-action=ignore "${wanted[@]}"
        echo "${wanted[*]}" > "$kernels/.installed"
    )
}

# Environment Modules, as on most clusters.
ensure_modules() {
    [ -r /usr/share/modules/init/bash ] || install_packages environment-modules
}

# Sets `user`, the ordinary user to work as, and the environment of a Slurm that answers; brings one up if there is none.
ensure_slurm() {
    if [ -z "$am_root" ]; then
        sinfo --version > /dev/null 2>&1 && sinfo -h > /dev/null 2>&1 ||
            fail "No Slurm answers here. Run this on a login node, or as root, which brings up a one-machine Slurm."
        user=
        return
    fi
    "$root/scripts/cluster" up
    eval "$("$root/scripts/cluster" env)"
    user=alice
}

# as_user COMMAND...: run it as that user, in an environment that holds nothing of the caller's but Slurm's.
as_user() {
    if [ -z "$user" ]; then
        "$@"
        return
    fi
    local home
    home=$(getent passwd "$user" | cut -d: -f6)
    (
        cd "$home"
        runuser -u "$user" -- env -i HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/bash LANG=C.UTF-8 \
            TERM="${TERM:-dumb}" PATH="$env_dir/bin:/usr/local/bin:/usr/bin:/bin" SLURM_CONF="$SLURM_CONF" \
            ${CI:+CI="$CI"} "$@"
    )
}

hands=
# have_hands COMMAND...: root's hands, until `drop_hands`: they undo then what they did, and end. They say when they are
# ready, and end, too, when this script is killed.
have_hands() {
    local ready
    coproc HANDS { exec "$@"; }
    hands=$HANDS_PID hands_hold=${HANDS[1]}
    read -r ready <&"${HANDS[0]}" || fail "Root's hands could not be had."
}
drop_hands() {
    [ -n "$hands" ] || return 0
    exec {hands_hold}>&-
    local pid=$hands
    hands=
    wait "$pid"
}
