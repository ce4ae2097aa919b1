%% What Python's logging says arrives in logger.
-module(logging_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, wait_until/1]).

-define(OWN_ALL, true).
-include("reactor_suite.hrl").

all() ->
    [{group, Backend} || Backend <- reactor_test:backends()] ++ [own_configuration_counts].

groups() ->
    reactor_test:backend_groups([
        every_level_arrives,
        with_traceback,
        in_setup_code,
        of_threads_of_the_user,
        what_is_printed,
        printed_in_parts,
        a_flood_of_prints_leaves_room,
        a_line_that_nobody_ends,
        lines_name_their_context
    ], [], [
        a_flood_is_counted
    ]).

init_per_testcase(_Case, Config) ->
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, debug),
    log_collector:install(),
    [{level, Level} | Config].

end_per_testcase(_Case, Config) ->
    ok = logger:set_primary_config(level, proplists:get_value(level, Config)),
    log_collector:remove().

every_level_arrives(Config) ->
    with_logs(Config, "", fun(Context, Id) ->
        [
            begin
                Text = io_lib:format("said as ~s: 日本", [Level]),
                ok = py:cast(Context, logs, say, [Level, unicode:characters_to_binary(Text)]),
                {Level, _, Meta} = log_collector:await(Id, [Text]),
                ?assertMatch(#{python_logger := <<"test.logs">>, line := Line} when Line > 0, Meta),
                ?assertEqual("logs.py", filename:basename(maps:get(file, Meta)))
            end
         || Level <- [debug, info, warning, error, critical]
        ]
    end).

with_traceback(Config) ->
    with_logs(Config, "", fun(Context, Id) ->
        {ok, none} = py:call(Context, logs, fail, []),
        {error, _, _} = log_collector:await(Id, ["it failed", "Traceback", "ZeroDivisionError"])
    end).

in_setup_code(Config) ->
    with_logs(Config, "logs.say('warning', 'from the set-up')", fun(_Context, Id) ->
        {warning, _, _} = log_collector:await(Id, ["from the set-up"])
    end).

%% In the main interpreter it may be another context that hears of it.
of_threads_of_the_user(Config) ->
    with_logs(Config, "", fun(Context, _Id) ->
        Text = reactor_test:tag(),
        {ok, none} = py:call(Context, logs, say_in_a_thread, [Text]),
        receive
            {log_collector, #{msg := {_, [Text]}, meta := #{py_context := Id, python_logger := <<"test.logs">>}}} ->
                ?assert(is_integer(Id))
        after 30000 -> error(no_log_line)
        end
    end).

a_flood_is_counted(Config) ->
    Count = 20000,
    with_logs(Config, "", fun(Context, _Id) ->
        {ok, none} = py:call(Context, logs, flood, [Count]),
        counted(Count, 0)
    end).

%% Every line was logged, or counted.
counted(Count, Logged) when Logged < Count ->
    receive
        {log_collector, #{msg := {_, [<<"flood ", _/binary>>]}}} ->
            counted(Count, Logged + 1);
        {log_collector, #{msg := {"~tssuppressed" ++ _, [_, Suppressed]}}} ->
            counted(Count, Logged + Suppressed);
        {log_collector, _Other} ->
            counted(Count, Logged)
    after 30000 -> error({not_counted, Count - Logged})
    end;
counted(Count, Logged) ->
    ?assertEqual(Count, Logged).

what_is_printed(Config) ->
    ok = logger:set_primary_config(level, notice),
    with_logs(Config, "", fun(Context, Id) ->
        Text = ["printed: 日本 ", reactor_test:tag()],
        {ok, none} = py:call(Context, logs, printed, [unicode:characters_to_binary(Text)]),
        {notice, Line, Meta} = log_collector:await(Id, [Text]),
        ?assertEqual(lists:flatten(unicode:characters_to_list(Text)), lists:flatten(Line)),
        ?assertMatch(#{python_logger := <<"print">>, domain := [python, print], line := L} when L > 0, Meta),
        ?assertEqual("logs.py", filename:basename(maps:get(file, Meta)))
    end).

%% One line of the log for one that is shown bit by bit; none for a blank one.
printed_in_parts(Config) ->
    with_logs(Config, "", fun(Context, Id) ->
        ok = py:exec(Context, "for part in ('one ', 'two', '\\n \\n\\n', 'three\\n'): print(part, end='', flush=True)"),
        ok = py:exec(Context, "print('the end')"),
        ?assertEqual(["one two", "three"], printed_until("the end", Id))
    end).

%% The lines that a context has printed.
printed_until(End, Id) ->
    receive
        {log_collector, #{level := notice, msg := {_, [Text]}, meta := #{py_context := Id, python_logger := <<"print">>}}} ->
            case unicode:characters_to_list(Text) of
                End -> [];
                Line -> [Line | printed_until(End, Id)]
            end
    after 30000 -> error(no_log_line)
    end.

%% What is logged meanwhile is not lost; each printed line was logged or, when one comes later, counted.
a_flood_of_prints_leaves_room(Config) ->
    Count = 500,
    with_logs(Config, "", fun(Context, _Id) ->
        {ok, none} = py:call(Context, logs, print_much, [Count]),
        all_told(Context, Count, 0, 0)
    end).

%% The warning comes behind the first lines; then printing more brings the count of those that were left out.
all_told(Context, Count, More, Told) when Told < Count + More ->
    receive
        {log_collector, #{msg := {_, [Text]}, meta := #{python_logger := <<"print">>}}} ->
            all_told(Context, Count, More, Told + lines_told(Text));
        {log_collector, #{level := warning, msg := {_, [<<"that was much">>]}}} ->
            put(warned, true),
            all_told(Context, Count, More, Told)
    after 200 ->
        ?assert(More < 150),
        {ok, none} = py:call(Context, logs, printed, [<<"again">>]),
        all_told(Context, Count, More + 1, Told)
    end;
all_told(_Context, _Count, _More, _Told) ->
    ?assertEqual(true, erase(warned)).

lines_told(Text) ->
    case re:run(Text, "^(\\d+) printed lines are on", [{capture, all_but_first, list}]) of
        {match, [Count]} -> list_to_integer(Count);
        nomatch -> 1
    end.

%% It is said when the context ends, and that context says it, be there an older one in its interpreter.
a_line_that_nobody_ends(Config) ->
    with_logs(Config, "", fun(_Older, _OlderId) ->
        Text = reactor_test:tag(),
        Id = with_logs(Config, "", fun(Context, Id) ->
            ok = py:exec(Context, ["print('the end of ', '", Text, "', sep='', end='')"]),
            Id
        end),
        {notice, _, _} = log_collector:await(Id, [["the end of ", Text]])
    end).

%% Handlers need not show metadata.
lines_name_their_context(Config) ->
    with_logs(Config, "", fun(Context, Id) ->
        ok = py:cast(Context, '__main__', nothing, []),
        {error, Line, _} = log_collector:await(Id, ["nothing"]),
        ?assertMatch({0, _}, binary:match(unicode:characters_to_binary(Line), iolist_to_binary(io_lib:format("context ~b: ", [Id]))))
    end).

own_configuration_counts(Config) ->
    SetUp = "
import io, logging
said = io.StringIO()
logging.basicConfig(stream=said, level=logging.INFO)
",
    {ok, Context} = py_reactor_context:start_link(
        reactor_test:new_id(), subinterp, reactor_test:options([{backend, auto} | Config], #{setup_code => SetUp})
    ),
    ok = py:exec(Context, "logging.info('mine alone')"),
    ?assertEqual({ok, <<"INFO:root:mine alone\n">>}, py:eval(Context, "said.getvalue()")),
    ok = py_reactor_context:stop(Context),
    ?assertEqual([], [Line || Line <- log_collector:flush(), string:find(Line, "mine alone") =/= nomatch]).

with_logs(Config, SetUp, Fun) ->
    with_context(Config, #{setup_code => ["import logs\n", SetUp]}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        Fun(Context, Id)
    end).
