%% Every code block of README.md and docs/*.md is executed, in the order in which it stands, one application start and
%% one set of Erlang bindings per file. What a block is says its info string:
%%
%%   erlang          evaluated; a block that begins with -module is compiled and loaded
%%   erlang terms    must parse as Erlang terms (rebar.config)
%%   python          run in context 1; comments behind it may ask for an exchange over a real connection:
%%                   <!-- docs_SUITE: {exchange, Send, Expect} -->, and see exchange/1
%%   python plain    run by the Python outside the VM
%%   python apps     run by apps_SUITE, which has the packages for it
%%   python module=M written to M.py, where all of them find it
%%   sh              run by bash
%%   sh not-run, elixir not-run
%%                   checked as far as that goes, and counted
%%   text            no code
%%
%% A block of another kind fails the suite.
-module(docs_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([readme/1, index/1, getting_started/1, reactor/1, asyncio/1, contexts/1, architecture/1, backends/1, invariants/1, migrating/1, security/1, benchmarks/1, performance/1]).
-export([every_document_is_run/1, few_blocks_are_not_run/1, links/1, named_files_and_tests_exist/1]).
-export([suites_are_described/1, options_are_documented/1, constants_are_documented/1, stats_are_documented/1]).

%% `make run' and `make test', `rebar3 shell', pip, a mix.exs twice, mix, and `make bench' three times.
-define(NOT_RUN_MAX, 9).
-define(RECEIVE_MS, 30000).

all() ->
    [{group, blocks}, {group, facts}].

groups() ->
    [
        {blocks, [], [readme, index, getting_started, reactor, asyncio, contexts, architecture, backends, invariants, migrating, performance, security, benchmarks]},
        {facts, [], [
            every_document_is_run,
            few_blocks_are_not_run,
            links,
            named_files_and_tests_exist,
            suites_are_described,
            options_are_documented,
            constants_are_documented,
            stats_are_documented
        ]}
    ].

init_per_suite(Config) ->
    %% Common Test runs a copy of the suite, in a directory of its own.
    Dirs = [filename:dirname(proplists:get_value(source, ?MODULE:module_info(compile))), cwd()],
    [Root | _] = [Root || Dir <- Dirs, Root <- above(Dir), filelib:is_file(filename:join(Root, "Cargo.toml"))],
    [{root, Root} | Config].

cwd() ->
    {ok, Dir} = file:get_cwd(),
    Dir.

above("/") -> [];
above(Dir) -> [Dir | above(filename:dirname(Dir))].

end_per_suite(_Config) ->
    ok.

init_per_testcase(_Case, Config) ->
    _ = application:stop(py_reactor),
    {ok, _} = application:ensure_all_started(py_reactor),
    Config.

end_per_testcase(_Case, _Config) ->
    ok = application:stop(py_reactor).

%% ---- the blocks of each document ----

readme(Config) -> run_document("README.md", Config).
index(Config) -> run_document("docs/README.md", Config).
getting_started(Config) -> run_document("docs/getting-started.md", Config).
reactor(Config) -> run_document("docs/reactor.md", Config).
asyncio(Config) -> run_document("docs/asyncio.md", Config).
contexts(Config) -> run_document("docs/contexts.md", Config).
architecture(Config) -> run_document("docs/architecture.md", Config).
backends(Config) -> run_document("docs/backends.md", Config).
invariants(Config) -> run_document("docs/invariants.md", Config).
migrating(Config) -> run_document("docs/migrating.md", Config).
security(Config) -> run_document("docs/security.md", Config).
benchmarks(Config) -> run_document("docs/benchmarks.md", Config).
performance(Config) -> run_document("docs/performance.md", Config).

every_document_is_run(Config) ->
    Run = [
        "README.md",
        "docs/README.md",
        "docs/architecture.md",
        "docs/asyncio.md",
        "docs/backends.md",
        "docs/benchmarks.md",
        "docs/contexts.md",
        "docs/getting-started.md",
        "docs/invariants.md",
        "docs/migrating.md",
        "docs/performance.md",
        "docs/reactor.md",
        "docs/security.md"
    ],
    ?assertEqual(Run, documents(Config)).

few_blocks_are_not_run(Config) ->
    Kinds = [Kind || File <- documents(Config), {block, _Line, Kind, _Text} <- parts(File, Config)],
    NotRun = [Kind || Kind <- Kinds, lists:member("not-run", string:lexemes(Kind, " "))],
    ct:log("~b blocks, ~b of them not run: ~p", [length(Kinds), length(NotRun), NotRun]),
    ?assert(length(NotRun) =< ?NOT_RUN_MAX).

%% ---- what the documents say about files, options and figures ----

links(Config) ->
    Links = [{File, Link} || File <- documents(Config), Link <- links_of(File, Config)],
    ?assertEqual([], [Broken || {File, Link} = Broken <- Links, not reaches(File, Link, Config)]).

links_of(File, Config) ->
    Found = re:run(prose(File, Config), "\\]\\(([^)\\s]+)\\)", [global, {capture, [1], list}, unicode]),
    case Found of
        {match, Links} -> [Link || [Link] <- Links, string:prefix(Link, "http") =:= nomatch];
        nomatch -> []
    end.

reaches(File, Link, Config) ->
    {Path, Anchor} =
        case string:split(Link, "#") of
            ["", Fragment] -> {File, Fragment};
            [Relative, Fragment] -> {beside(File, Relative), Fragment};
            [Relative] -> {beside(File, Relative), none}
        end,
    filelib:is_file(absolute(Path, Config)) andalso
        (Anchor =:= none orelse lists:member(Anchor, anchors(Path, Config))).

beside(File, Relative) ->
    case filename:dirname(File) of
        "." -> Relative;
        Dir -> filename:join(Dir, Relative)
    end.

%% As GitHub makes them.
anchors(File, Config) ->
    {match, Headings} = re:run(prose(File, Config), "^#+ (.*)$", [global, multiline, {capture, [1], list}, unicode]),
    [anchor(Heading) || [Heading] <- Headings].

anchor(Heading) ->
    Plain = re:replace(string:lowercase(Heading), "[^\\w\\- ]", "", [global, unicode, {return, list}]),
    lists:append(string:replace(Plain, " ", "-", all)).

%% `src/x.rs' and `test/x_SUITE.erl: a_case', wherever they are named.
named_files_and_tests_exist(Config) ->
    Named = [{File, Name} || File <- documents(Config), Name <- code_spans(File, Config), is_path(Name)],
    ?assertEqual([], [Bad || {_, Name} = Bad <- Named, not named_exists(Name, Config)]).

%% test/README.md says which suite holds which promise: none is left out, and none is named that is not there.
suites_are_described(Config) ->
    Suites = [filename:rootname(File) || File <- filelib:wildcard("*_SUITE.erl", absolute("test", Config))],
    Named = [Span || Span <- code_spans("test/README.md", Config), re:run(Span, "^\\w+_SUITE$") =/= nomatch],
    ?assertEqual(lists:sort(Suites), lists:usort(Named)).

code_spans(File, Config) ->
    case re:run(prose(File, Config), "`([^`\n]+)`", [global, {capture, [1], list}, unicode]) of
        {match, Spans} -> [Span || [Span] <- Spans];
        nomatch -> []
    end.

is_path(Name) ->
    re:run(Name, "^(src|erlang|python|test|docs|scripts|examples|models|fuzz)/[\\w./-]+\\.(rs|erl|py|md|sh)(: \\w+)?$") =/= nomatch.

named_exists(Name, Config) ->
    [Path | Test] = string:split(Name, ": "),
    case file:read_file(absolute(Path, Config)) of
        {ok, Text} -> lists:all(fun(Case) -> defines(Text, Case) end, Test);
        {error, _} -> false
    end.

defines(Text, Case) ->
    re:run(Text, "(fn |def |^)" ++ Case ++ "\\(", [multiline]) =/= nomatch.

options_are_documented(Config) ->
    Rows = rows("docs/reactor.md", "## Options", Config),
    Documented = [{list_to_atom(code(Key)), code(Default)} || [Key, Default, _Range, _Meaning] <- Rows],
    Text = fun(Value) -> lists:flatten(io_lib:format("~tp", [Value])) end,
    Defaults = [{Key, Text(Value)} || {Key, Value} <- maps:to_list(py_options:defaults())],
    ?assertEqual(lists:sort(Defaults), lists:sort(Documented)).

constants_are_documented(Config) ->
    {ok, Source} = file:read_file(absolute("src/base/config.rs", Config)),
    Rows = [Row || [Name, _, _] = Row <- rows("docs/reactor.md", "## Options", Config), code(Name) =/= "constant"],
    ?assert(length(Rows) > 3),
    [?assertEqual({Name, constant(Source, code(Name))}, {Name, list_to_integer(Value)}) || [Name, Value, _] <- Rows].

constant(Source, Name) ->
    {match, [Expression]} = re:run(Source, "const " ++ Name ++ ": \\w+ = ([\\d* _]+);", [{capture, [1], list}]),
    Digits = [Char || Char <- Expression, Char =/= $_],
    lists:foldl(fun(Factor, Product) -> list_to_integer(Factor) * Product end, 1, string:lexemes(Digits, "* ")).

stats_are_documented(Config) ->
    Rows = rows("docs/reactor.md", "## Stats", Config),
    Documented = [list_to_atom(Key) || [Keys, _] <- Rows, Key <- string:lexemes(Keys, "`, ")],
    {ok, [_]} = py:start_contexts(1),
    ?assertEqual(lists:sort(maps:keys(py_reactor_context:stats(1))), lists:sort(Documented)).

%% The cells of the tables of a section, without headings.
rows(File, Heading, Config) ->
    [_, Rest] = string:split(prose(File, Config), "\n" ++ Heading ++ "\n"),
    [Section | _] = string:split(Rest, "\n## "),
    Lines = [Line || Line <- string:split(Section, "\n", all), string:prefix(Line, "| `") =/= nomatch],
    [[string:trim(Cell) || Cell <- string:split(string:trim(Line, both, "| "), "|", all)] || Line <- Lines].

code(Cell) ->
    string:trim(Cell, both, "`").

%% ---- running a document ----

run_document(File, Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), filename:basename(File, ".md")),
    ok = filelib:ensure_dir(filename:join(Dir, "x")),
    Parts = parts(File, Config),
    Modules = [{Name, Text} || {block, _, "python module=" ++ Name, Text} <- Parts],
    [ok = file:write_file(filename:join(Dir, Name ++ ".py"), Text) || {Name, Text} <- Modules],
    ok = py:exec([
        "import sys\n"
        "sys.dont_write_bytecode = True\n",
        io_lib:format("sys.path.insert(0, ~p)\n", [Dir])
    ]),
    Bindings = erl_eval:add_binding('PythonDir', Dir, erl_eval:new_bindings()),
    _ = lists:foldl(fun(Part, State) -> run_part(File, Part, State) end, {Bindings, Dir, Config}, Parts),
    ok = py:exec(io_lib:format("sys.path.remove(~p)\n", [Dir])).

run_part(File, {_, Line, _, _} = Part, State) ->
    try
        run(Part, State)
    catch
        Class:Reason:Stack ->
            ct:fail("~ts, line ~b: ~p: ~tp~n~tp", [File, Line, Class, Reason, Stack])
    end.

run({block, _, "erlang", "-module" ++ _ = Text}, State) ->
    compile_and_load(Text),
    State;
run({block, _, "erlang", Text}, {Bindings, Dir, Config}) ->
    {lists:foldl(fun evaluate/2, Bindings, expressions(Text)), Dir, Config};
run({block, _, "erlang terms", Text}, State) ->
    [_ | _] = [{ok, _} = erl_parse:parse_term(Tokens) || Tokens <- dotted(Text)],
    State;
run({block, _, "python", Text}, State) ->
    ?assertEqual(ok, py:exec(Text)),
    State;
run({block, _, "python plain", Text}, {_, Dir, Config} = State) ->
    File = filename:join(Dir, "plain.py"),
    ok = file:write_file(File, Text),
    Python = string:trim(shell("bash scripts/find_python.sh", [], Config)),
    Path = Dir ++ ":" ++ absolute("python", Config),
    _ = shell(Python ++ " -B " ++ File, [{"PYTHONPATH", Path}], Config),
    State;
run({block, _, "python apps", _}, State) ->
    State;
run({block, _, "python module=" ++ _, _}, State) ->
    %% It is where it belongs already; a block that uses it must find it without a fault.
    State;
run({block, _, "sh", Text}, {_, _, Config} = State) ->
    _ = shell(Text, [], Config),
    State;
run({block, _, "sh not-run", Text}, {_, Dir, Config} = State) ->
    File = filename:join(Dir, "not_run.sh"),
    ok = file:write_file(File, Text),
    _ = shell("bash -n " ++ File, [], Config),
    {ok, Makefile} = file:read_file(absolute("Makefile", Config)),
    {match, _} = re:run(Text, "^(make|rebar3|mix|python3) ", [multiline]),
    Targets =
        case re:run(Text, "^make (\\w+)", [global, multiline, {capture, [1], list}]) of
            {match, Found} -> Found;
            nomatch -> []
        end,
    [{match, _} = re:run(Makefile, "^" ++ Target ++ ":", [multiline]) || [Target] <- Targets],
    State;
run({block, _, "elixir not-run", _}, State) ->
    State;
run({block, _, "text", _}, State) ->
    State;
run({block, _, Kind, _}, _State) ->
    error({unknown_kind_of_block, Kind});
run({comment, _, _, Text}, State) ->
    [Tokens] = dotted(Text ++ "."),
    {ok, Request} = erl_parse:parse_term(Tokens),
    ok = exchange(Request),
    State.

shell(Command, Environment, Config) ->
    Root = proplists:get_value(root, Config),
    Port = open_port({spawn_executable, os:find_executable("bash")}, [
        {args, ["-ec", Command]}, {cd, Root}, {env, Environment}, exit_status, stderr_to_stdout, binary, hide
    ]),
    shell_output(Port, Command, <<>>).

shell_output(Port, Command, Output) ->
    receive
        {Port, {data, More}} -> shell_output(Port, Command, <<Output/binary, More/binary>>);
        {Port, {exit_status, 0}} -> unicode:characters_to_list(Output);
        {Port, {exit_status, Status}} -> error({exit_status, Status, Command, Output})
    after 60000 -> error({timeout, Command, Output})
    end.

%% ---- an exchange with what serves in context 1 ----

%% The peer sends, and expects exactly this.
exchange({exchange, Send, Expect}) ->
    exchange({handoff, [{addr, "127.0.0.1"}, {type, tcp}], Send, Expect});
exchange({handoff, Info, Send, Expect}) ->
    Peer = connected(maps:from_list(Info)),
    ok = gen_tcp:send(Peer, Send),
    ?assertEqual({ok, list_to_binary(Expect)}, gen_tcp:recv(Peer, length(Expect), ?RECEIVE_MS)),
    ok = gen_tcp:close(Peer);
%% As above, but the peer has shut its sending side down before it reads, and reads to the end.
exchange({exchange_half_close, Send, Expect}) ->
    Peer = connected(#{}),
    ok = gen_tcp:send(Peer, Send),
    ok = gen_tcp:shutdown(Peer, write),
    ?assertEqual(list_to_binary(Expect), to_the_end(Peer, <<>>));
%% The peer reads until the protocol closes.
exchange({exchange_until_close, Send, Expect}) ->
    Peer = connected(#{}),
    ok = gen_tcp:send(Peer, Send),
    ?assertEqual(list_to_binary(Expect), to_the_end(Peer, <<>>)),
    ok = gen_tcp:close(Peer).

connected(Info) ->
    Options = [binary, {active, false}, {ip, {127, 0, 0, 1}}],
    {ok, Listening} = gen_tcp:listen(0, Options),
    {ok, Port} = inet:port(Listening),
    {ok, Peer} = gen_tcp:connect({127, 0, 0, 1}, Port, Options),
    {ok, Accepted} = gen_tcp:accept(Listening, ?RECEIVE_MS),
    ok = gen_tcp:close(Listening),
    ok = py_reactor_context:handoff(1, Accepted, Info),
    Peer.

to_the_end(Peer, Read) ->
    case gen_tcp:recv(Peer, 0, ?RECEIVE_MS) of
        {ok, More} -> to_the_end(Peer, <<Read/binary, More/binary>>);
        {error, closed} -> Read
    end.

%% ---- Erlang blocks ----

compile_and_load(Text) ->
    Forms = [form(Tokens) || Tokens <- dotted(Text)],
    {ok, Module, Binary, []} = compile:forms(Forms, [return]),
    {module, Module} = code:load_binary(Module, atom_to_list(Module) ++ ".erl", Binary),
    ok.

form(Tokens) ->
    {ok, Form} = erl_parse:parse_form(Tokens),
    Form.

expressions(Text) ->
    [element(2, {ok, _} = erl_parse:parse_exprs(Tokens)) || Tokens <- dotted(Text)].

evaluate(Expressions, Bindings) ->
    {value, _Value, NewBindings} = erl_eval:exprs(Expressions, Bindings),
    NewBindings.

%% The tokens of a text, cut behind each dot.
dotted(Text) ->
    {ok, Tokens, _} = erl_scan:string(Text),
    cut([patient(Token) || Token <- Tokens], [], []).

%% The five seconds that samples wait are a minute here: how long it takes is the machine's affair.
patient({integer, Where, 5000}) -> {integer, Where, 60000};
patient(Token) -> Token.

cut([], [], Done) ->
    lists:reverse(Done);
cut([{dot, _} = Dot | Rest], Now, Done) ->
    cut(Rest, [], [lists:reverse([Dot | Now]) | Done]);
cut([Token | Rest], Now, Done) ->
    cut(Rest, [Token | Now], Done);
cut([], Open, _Done) ->
    error({no_dot_at_the_end, lists:reverse(Open)}).

%% ---- documents and their parts ----

documents(Config) ->
    Docs = filelib:wildcard("docs/**/*.md", proplists:get_value(root, Config)),
    ["README.md" | lists:sort(Docs)].

absolute(Path, Config) ->
    filename:join(proplists:get_value(root, Config), Path).

lines(File, Config) ->
    {ok, Binary} = file:read_file(absolute(File, Config)),
    string:split(unicode:characters_to_list(Binary), "\n", all).

%% The text without its code blocks.
prose(File, Config) ->
    {Prose, _} = lists:foldl(fun outside/2, {[], false}, lines(File, Config)),
    lists:append(lists:join("\n", lists:reverse(Prose))).

outside("```" ++ _, {Prose, Inside}) -> {Prose, not Inside};
outside(_Line, {Prose, true}) -> {Prose, true};
outside(Line, {Prose, false}) -> {[Line | Prose], false}.

%% Code blocks and the comments for this suite: {block, Line, InfoString, Text} | {comment, Line, "", Term}.
parts(File, Config) ->
    Lines = lists:zip(lists:seq(1, length(lines(File, Config))), lines(File, Config)),
    split_parts(Lines, []).

split_parts([], Parts) ->
    lists:reverse(Parts);
split_parts([{Number, "```" ++ Info} | Rest], Parts) ->
    IsInside = fun({_, Line}) -> string:prefix(Line, "```") =:= nomatch end,
    {Inside, [{_, "```"} | Behind]} = lists:splitwith(IsInside, Rest),
    Text = lists:append([Line ++ "\n" || {_, Line} <- Inside]),
    split_parts(Behind, [{block, Number, string:trim(Info), Text} | Parts]);
split_parts([{Number, "<!-- docs_SUITE:" ++ Term} | Rest], Parts) ->
    [Text, []] = string:split(Term, "-->"),
    split_parts(Rest, [{comment, Number, "", Text} | Parts]);
split_parts([_ | Rest], Parts) ->
    split_parts(Rest, Parts).
