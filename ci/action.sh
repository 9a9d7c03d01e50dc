#!/usr/bin/env bash
# What action.yml runs. Inputs come as BNFOLD_* variables and are never evaluated as code; lists have one item a line.
# Ends with bnfold's exit status, the worse one where it lints and checks.
set -euo pipefail

reports=${BNFOLD_REPORTS:-bnfold-report}
verdict=error
status=0

items() { # NAME TEXT: put the lines of TEXT that aren't blank into the array NAME, without the blanks around them
    local -n list=$1
    local line
    list=()
    while IFS= read -r line; do
        line=${line#"${line%%[![:space:]]*}"}
        line=${line%"${line##*[![:space:]]}"}
        [[ -z $line ]] || list+=("$line")
    done <<<"$2"
}

worsen() { # STATUS: a difference (1) outweighs a doubt (3), which outweighs success; a failure to run (2, 4) both
    local new=$1 rank=(0 2 3 1 4) # of the statuses 0 to 4
    if ((${rank[$new]:-5} > ${rank[$status]:-5})); then status=$new; fi
}

lint() {
    local outcome=0
    bnfold lint "${lint_paths[@]}" || outcome=$?
    worsen "$outcome"
}

check() {
    local outcome=0 arguments=(check "$BNFOLD_REFERENCE" "${candidates[@]}")
    mkdir -p "$reports"
    rm -f "$reports"/report.{json,xml,sarif,md,html} # an earlier run's must not pass for this one's
    arguments+=(--report "json=$reports/report.json,junit=$reports/report.xml,sarif=$reports/report.sarif,markdown=$reports/report.md,html=$reports/report.html")
    [[ -z ${BNFOLD_PROVIDERS:-} ]] || arguments+=(--providers "$BNFOLD_PROVIDERS")
    [[ -z ${BNFOLD_INPUTS:-} ]] || arguments+=(--inputs "$BNFOLD_INPUTS")
    [[ ${BNFOLD_ALLOW_MISSING:-false} != true ]] || arguments+=(--allow-missing)
    bnfold "${arguments[@]}" --save "$reports/replay.npz" "${more[@]}" || outcome=$?
    worsen "$outcome"
    if [[ -f $reports/report.json ]]; then
        verdict=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["verdict"])' "$reports/report.json")
        cat "$reports/report.md" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"
    fi
}

items candidates "${BNFOLD_CANDIDATES:-}"
items lint_paths "${BNFOLD_LINT:-}"
items more "${BNFOLD_ARGUMENTS:-}"

if [[ -z ${BNFOLD_REFERENCE:-} && ${#lint_paths[@]} -eq 0 ]]; then
    echo "::error title=bnfold::give a reference and candidates, or paths to lint"
    status=2
fi
if ((${#lint_paths[@]})); then lint; fi
if [[ -n ${BNFOLD_REFERENCE:-} ]]; then check; fi

{
    echo "verdict=$verdict"
    echo "exit-status=$status"
    echo "reports=$reports"
} >>"${GITHUB_OUTPUT:-/dev/null}"
exit "$status"
