//! The shell: from a pipe, and at a terminal with somebody who types.

use crate::common::Cluster;
use crate::terminal::{CTRL_C, CTRL_D, Terminal, UP};
use crate::transcript::Transcript;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_until_its_first_failure() {
    let cluster = Cluster::start(1).await;
    let mut transcript = Transcript::of(&cluster);
    for script in [
        "put color green\nput 'two words' \"it is\" # a remark\n\nscan\n",
        "get missing\nput color never\n",
        "put color red\nput color --nonsense\nput color never\n",
        "put a 'over two\nlines'\nget a\nexit\nput color never\n",
        "get color -o json --context nowhere\n",
        "put color\n",
        "import\n",
        "put 'open\n",
        "put b \\\n    'over two lines'\nget b # a remark \\\nget a\n",
        "get missing \\\n    --meta\nget a\n",
        "get a\nput never \\\n",
        "raftkv-cli get color\nshell\n",
        "txn\nif { absent(lock) }\nthen {\n    put lock \"it's me\"\n\n    put other 1\n}\n\nget lock\n",
        "txn -o json\n{\"then\": [{\"get\": {\"key\": \"lock\",\n\n\"count_only\": true}}]}",
        "get other\ntxn\nthen {\n    pot other 2\n}\n\nput never 1\n",
        "txn\n\nput never 1\n",
    ] {
        let mut cli = cluster.cli_at(&cluster.endpoints());
        cli.env("RAFTKV_CONTEXTS", cluster.folder.path().join("contexts.toml"));
        transcript.run_with_input(cli, &["shell"], script);
    }
    transcript.check("shell");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_tab_completes_and_interrupts_end_commands_only() {
    let cluster = Cluster::start(1).await;
    for (key, value) in [("color/blue", "sky"), ("color/green", "grass"), ("it is", "quoted")] {
        assert!(cluster.cli(&["put", key, value]).status.success());
    }
    let state = cluster.folder.path().join("state");
    let mut cli = cluster.cli_at(&cluster.endpoints());
    cli.arg("shell").env("XDG_STATE_HOME", &state);

    let mut terminal = Terminal::start(&cli);
    terminal.shows("raftkv> ");
    terminal.press("ge\t");
    terminal.shows("get ");
    terminal.press("col");
    terminal.press_until_it_shows("\t", "color/");
    // What both keys have in common is there; the rest is for the person to choose.
    terminal.press("g");
    terminal.press_until_it_shows("\t", "color/green");
    terminal.press("\r");
    terminal.shows("grass\r\n");
    terminal.press("get it");
    terminal.press_until_it_shows("\t", "'it is'");
    terminal.press("\r");
    terminal.shows("quoted\r\n");
    terminal.press("get missing\r");
    terminal.shows("key not found: missing");
    terminal.shows("exit code 3");
    terminal.press("get color/blue \\\r");
    terminal.press("--meta\r");
    terminal.shows("version: 1");
    terminal.shows("sky\r\n");
    terminal.press("txn\r");
    terminal.shows("txn> ");
    terminal.press("then {\r");
    terminal.shows("txn> ");
    terminal.press("\r");
    terminal.shows("txn> ");
    terminal.press("put never \"typed");
    terminal.press(CTRL_C);
    terminal.shows("raftkv> ");
    terminal.press("txn\r");
    terminal.shows("txn> ");
    terminal.press("then { put typed \"it's\" }\r");
    terminal.shows("txn> ");
    terminal.press("\r");
    terminal.shows("then\r\n");
    terminal.shows("raftkv> ");
    terminal.press(UP);
    terminal.shows("then { put typed");
    terminal.press("\r");
    terminal.shows("txn> ");
    terminal.press(CTRL_D);
    terminal.shows("then\r\n");
    terminal.press("get typed --meta\r");
    terminal.shows("version: 2");
    terminal.press("get never\r");
    terminal.shows("exit code 3");
    terminal.press("status --watch\r");
    terminal.shows("leader");
    terminal.press(CTRL_C);
    terminal.shows("interrupted");
    terminal.shows("exit code 130");
    terminal.shows("raftkv> ");
    terminal.press("a line that is given up");
    terminal.press(CTRL_C);
    terminal.shows("raftkv> ");
    terminal.press(" put secret value\r");
    terminal.shows("raftkv> ");
    terminal.press(CTRL_D);
    assert!(terminal.ended().success());

    let history = fs::read_to_string(state.join("raftkv/history")).expect("the shell kept a history");
    assert!(history.contains("status --watch") && !history.contains("secret"), "{history}");
    let mode = fs::metadata(state.join("raftkv/history")).expect("it was just read").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut terminal = Terminal::start(&cli);
    terminal.shows("raftkv> ");
    terminal.press(UP);
    terminal.shows("status --watch");
    terminal.press(CTRL_C);
    terminal.shows("raftkv> ");
    terminal.press(CTRL_D);
    assert!(terminal.ended().success());

    cli.arg("--no-history");
    let mut terminal = Terminal::start(&cli);
    terminal.shows("raftkv> ");
    terminal.press("get color/blue\r");
    terminal.shows("sky\r\n");
    terminal.press("exit\r");
    assert!(terminal.ended().success());
    assert_eq!(fs::read_to_string(state.join("raftkv/history")).expect("it is still there"), history);
}
