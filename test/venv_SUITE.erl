%% Packages of a user's virtual environment. Each case has a VM of its own, because mode `worker' shares one interpreter.
-module(venv_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

all() ->
    [{group, worker}, {group, subinterp}, of_the_shell, two_environments, what_is_no_environment, another_version, missing_directories] ++
        reactor_test:long([wheels]).

groups() ->
    [{Mode, [], [packages, place, system_packages, by_the_application, before_the_paths]} || Mode <- [worker, subinterp]].

init_per_group(Mode, Config) ->
    [{mode, Mode} | Config].

end_per_group(_Mode, _Config) ->
    ok.

init_per_testcase(Case, Config) ->
    Name = lists:concat([Case, "_", proplists:get_value(mode, Config, both)]),
    [{directory, filename:join(proplists:get_value(priv_dir, Config), Name)} | Config].

end_per_testcase(_Case, _Config) ->
    ok.

%% A module, and what a .pth file adds.
packages(Config) ->
    Venv = venv(Config, "one", "false"),
    with_context(Config, #{venv => Venv}, fun(Eval) ->
        ?assertEqual({ok, <<"one">>}, Eval("__import__('of_venv').name")),
        ?assertEqual({ok, <<"by pth">>}, Eval("__import__('beside').name")),
        ?assertEqual({ok, true}, Eval("__import__('erlang.reactor') is not None"))
    end).

place(Config) ->
    Venv = list_to_binary(venv(Config, "one", "false")),
    with_context(Config, #{venv => Venv}, fun(Eval) ->
        ?assertEqual({ok, {Venv, Venv, filename:join(Venv, "bin/python3")}},
            Eval("(__import__('sys').prefix, __import__('sys').exec_prefix, __import__('sys').executable)")),
        ?assertEqual({ok, true}, Eval("__import__('sys').base_prefix != __import__('sys').prefix"))
    end).

%% Those of Python itself (Debian's has several directories of them) are seen when the environment says so, and come last.
system_packages(Config) ->
    Index =
        "[__import__('sys').path.index(d) for d in [~p] + [d for d in"
        " __import__('site').getsitepackages([__import__('sys').base_prefix]) if d in __import__('sys').path]]",
    [
        with_context(Config, #{venv => Venv}, fun(Eval) ->
            {ok, [Own | OfSystem]} = Eval(io_lib:format(Index, [filename:join(Venv, packages_of_venv())])),
            ?assertEqual({Included, []}, {Included, [Position || Position <- OfSystem, Position < Own]}),
            ?assertEqual({Included, Included =:= "true"}, {Included, OfSystem =/= []})
        end)
     || Included <- ["true", "false"], Venv <- [venv(Config, "system_" ++ Included, Included)]
    ].

by_the_application(Config) ->
    Venv = venv(Config, "one", "false"),
    with_vm(fun(Vm) ->
        ok = ask(Vm, application, load, [py_reactor]),
        ok = ask(Vm, application, set_env, [py_reactor, venv, Venv]),
        {ok, _} = ask(Vm, py_reactor, start_context, [1, proplists:get_value(mode, Config), #{}]),
        ?assertEqual({ok, <<"one">>}, ask(Vm, py, eval, [1, "__import__('of_venv').name"]))
    end).

before_the_paths(Config) ->
    Venv = venv(Config, "one", "false"),
    Mine = filename:join(proplists:get_value(directory, Config), "mine"),
    ok = write(filename:join(Mine, "of_venv.py"), "name = 'mine'"),
    with_context(Config, #{venv => Venv, python_path => [Mine]}, fun(Eval) ->
        ?assertEqual({ok, <<"mine">>}, Eval("__import__('of_venv').name")),
        ?assertEqual({ok, <<"by pth">>}, Eval("__import__('beside').name"))
    end).

%% A real environment, with compiled packages from the index: what they make of received bytes. Skipped where there is no
%% network.
wheels(Config) ->
    Venv = filename:join(proplists:get_value(directory, Config), "wheels"),
    {ok, Python} = py:eval("__import__('sys').executable"),
    Install = io_lib:format(
        "(~ts -m venv ~ts && ~ts/bin/pip install -q --disable-pip-version-check numpy httptools h11) 2>&1 && echo installed",
        [Python, Venv, Venv]
    ),
    case string:find(os:cmd(lists:flatten(Install)), "installed", trailing) of
        nomatch ->
            {skip, "no packages could be installed"};
        _ ->
            SetUp = "import erlang.reactor, h11, httptools, numpy\n"
                "data = erlang.reactor.ReactorBuffer(b'GET /x HTTP/1.1\\r\\nHost: y\\r\\n\\r\\n')\n"
                "class Url:\n    def on_url(self, url): self.url = url\n"
                "seen = Url()\nhttptools.HttpRequestParser(seen).feed_data(data)\n"
                "server = h11.Connection(h11.SERVER)\nserver.receive_data(data)\n",
            with_context([{mode, worker} | Config], #{venv => Venv, setup_code => SetUp}, fun(Eval) ->
                ?assertEqual({ok, <<"/x">>}, Eval("seen.url")),
                ?assertEqual({ok, <<"/x">>}, Eval("server.next_event().target")),
                ?assertEqual({ok, true}, Eval("int(numpy.frombuffer(data, dtype='u1').sum()) == sum(data)"))
            end)
    end.

%% The one that VIRTUAL_ENV names, unless it is none, or is of another Python.
of_the_shell(Config) ->
    Directory = proplists:get_value(directory, Config),
    [Fits, Old] = [filename:join(Directory, Name) || Name <- ["fits", "old"]],
    {ok, Python} = py:eval("__import__('sys').executable"),
    [] = os:cmd(lists:flatten(io_lib:format("~ts -m venv --without-pip ~ts", [Python, Fits]))),
    ok = write(filename:join([Fits, packages_of_venv(), "of_venv.py"]), "name = 'fits'"),
    ok = write(filename:join(Old, "pyvenv.cfg"), "home = /usr/bin\nversion = 3.7.1\n"),
    ok = write(filename:join(Old, "lib/python3.7/site-packages/of_venv.py"), "name = 'old'"),
    ok = write(filename:join(Old, "bin/python3"), ""),
    [
        with_vm([{"VIRTUAL_ENV", Venv}], fun(Vm) ->
            {ok, Prefix} = ask(Vm, py, eval, ["__import__('sys').prefix"]),
            ?assertEqual({Venv, Used}, {Venv, Prefix =:= list_to_binary(Venv)}),
            ?assertEqual({Venv, Used}, {Venv, {ok, <<"fits">>} =:= ask(Vm, py, eval, ["__import__('of_venv').name"])})
        end)
     || {Venv, Used} <- [{Fits, true}, {Old, false}, {"/there/is/none", false}]
    ].

%% The main interpreter has one environment; interpreters of contexts have each their own.
two_environments(Config) ->
    [One, Two] = [venv(Config, Name, "false") || Name <- ["one", "two"]],
    with_vm(fun(Vm) ->
        Start = fun(Id, Mode, Venv) -> ask(Vm, py_reactor, start_context, [Id, Mode, #{venv => Venv}]) end,
        Name = fun(Id) -> ask(Vm, py, eval, [Id, "__import__('of_venv').name"]) end,
        {ok, _} = Start(1, worker, One),
        {ok, _} = Start(2, worker, One),
        {error, {venv, Why}} = Start(3, worker, Two),
        [?assertNotEqual(nomatch, string:find(Why, Text)) || Text <- [One, Two, "subinterp"]],
        {ok, _} = Start(4, subinterp, Two),
        {ok, _} = Start(5, subinterp, One),
        ?assertEqual([{ok, N} || N <- [<<"one">>, <<"one">>, <<"two">>, <<"one">>]], [Name(Id) || Id <- [1, 2, 4, 5]])
    end).

what_is_no_environment(Config) ->
    Plain = filename:join(proplists:get_value(directory, Config), "plain"),
    ok = write(filename:join(Plain, "x"), ""),
    refused(venv, Plain, ["pyvenv.cfg"]),
    refused(venv, 7, ["text"]).

another_version(Config) ->
    Venv = filename:join(proplists:get_value(directory, Config), "old"),
    [
        begin
            ok = write(filename:join(Venv, "pyvenv.cfg"), ["home = /usr/bin\n", Key, " = 3.7.1\n"]),
            refused(venv, Venv, ["3.7", version()])
        end
     || Key <- ["version", "version_info"]
    ].

missing_directories(_Config) ->
    refused(venv, "/there/is/none", ["does not exist"]),
    refused(python_path, [".", "/there/is/none"], ["does not exist", "/there/is/none"]).

refused(Key, Value, Texts) ->
    {error, {bad_option, Key, Value, Why}} = py_reactor_context:start_link(reactor_test:new_id(), worker, #{Key => Value}),
    [?assertNotEqual({Why, nomatch}, {Why, string:find(Why, Text)}) || Text <- Texts].

%% A directory that looks as if venv had made it.
venv(Config, Name, IncludesSystem) ->
    Venv = filename:join(proplists:get_value(directory, Config), Name),
    Packages = filename:join(Venv, packages_of_venv()),
    Beside = filename:join(Venv, "beside_it"),
    ok = write(filename:join(Venv, "pyvenv.cfg"), [
        "home = /usr/bin\ninclude-system-site-packages = ", IncludesSystem, "\nversion = ", version(), ".0\n"
    ]),
    ok = write(filename:join(Packages, "of_venv.py"), ["name = '", Name, "'"]),
    ok = write(filename:join(Packages, "beside.pth"), [Beside, "\n"]),
    ok = write(filename:join(Beside, "beside.py"), "name = 'by pth'"),
    ok = write(filename:join(Venv, "bin/python3"), ""),
    Venv.

packages_of_venv() ->
    "lib/python" ++ version() ++ "/site-packages".

version() ->
    #{python := Version} = py_nif:version(),
    binary_to_list(Version).

write(File, Text) ->
    ok = filelib:ensure_dir(File),
    file:write_file(File, Text).

with_context(Config, Options, Fun) ->
    with_vm(fun(Vm) ->
        {ok, _} = ask(Vm, py_reactor, start_context, [1, proplists:get_value(mode, Config), Options]),
        Fun(fun(Expression) -> ask(Vm, py, eval, [1, Expression]) end)
    end).

%% A context starts Python, and what is imported is compiled first.
ask(Vm, Module, Function, Args) ->
    peer:call(Vm, Module, Function, Args, 60000).

with_vm(Fun) ->
    with_vm([], Fun).

with_vm(Env, Fun) ->
    Ebin = filename:absname(filename:dirname(code:which(py))),
    {ok, Vm, _Node} = peer:start_link(#{connection => standard_io, args => ["-pa", Ebin], env => Env, wait_boot => 60000}),
    try
        Fun(Vm)
    after
        peer:stop(Vm)
    end.
