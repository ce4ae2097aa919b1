%% A hook of Common Test: no case, and nothing that sets up or clears up, takes longer than a bound, and what has hung is told
%% of with what the threads of the VM do. A case that needs longer says so by ct:timetrap/1.
-module(bounds).

-export([init/2]).
-export([pre_init_per_suite/3, pre_end_per_suite/3]).
-export([pre_init_per_group/4, pre_end_per_group/4, pre_init_per_testcase/4]).
-export([on_tc_fail/4, on_tc_skip/4]).

%% After how many that have hung no more are tried.
-define(HUNG, 3).

-spec init(term(), term()) -> {ok, {file:filename(), non_neg_integer()}}.
init(_Id, _Options) ->
    %% Where rebar3 was started; the working directory is that of the logs by now.
    {ok, {filename:join([os:getenv("PWD", "."), "scripts", "stacks.py"]), 0}}.

pre_init_per_suite(_Suite, Config, State) -> bounded(Config, State).
pre_end_per_suite(_Suite, Config, State) -> bounded(Config, State).
pre_init_per_group(_Suite, _Group, Config, State) -> bounded(Config, State).
pre_end_per_group(_Suite, _Group, Config, State) -> bounded(Config, State).
pre_init_per_testcase(_Suite, _Case, Config, State) -> bounded(Config, State).

on_tc_fail(Suite, Name, Reason, State) ->
    tell(Suite, Name, Reason, State).

on_tc_skip(Suite, Name, Reason, State) ->
    tell(Suite, Name, Reason, State).

%% The longest case of `make test' takes a tenth of it on a machine that has nothing else to do.
bounded(Config, State) ->
    ct:timetrap({minutes, 5}),
    {Config, State}.

tell(Suite, Name, Reason, {Script, Hung} = State) ->
    case string:find(io_lib:format("~w", [Reason]), "timetrap_timeout") of
        nomatch ->
            State;
        _ ->
            Said = os:cmd("python3 '" ++ Script ++ "' " ++ os:getpid()),
            io:format(user, "~n~w ~w FAILED by its bound; the threads of the VM:~n~ts~n", [Suite, Name, Said]),
            go_on({Script, Hung + 1})
    end.

%% What has hung may hold what all others wait for.
go_on({_, Hung}) when Hung >= ?HUNG ->
    io:format(user, "~w cases FAILED by their bound: the VM ends here~n", [Hung]),
    erlang:halt(1, [{flush, false}]);
go_on(State) ->
    State.
