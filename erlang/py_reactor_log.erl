%% @doc Log lines that come from the native half, on their way to `logger', at a bounded rate.
%%
%% A protocol that raises in every callback writes as many lines as it has messages; beyond a limit they are counted
%% and the count is logged instead.
%% @private
-module(py_reactor_log).

-export([new/0, log/3, tick/2, interval_ms/0]).
-export_type([limit/0]).

-define(LINES_MAX, 100).
-define(INTERVAL_MS, 1000).

-opaque limit() :: {Lines :: non_neg_integer(), Suppressed :: non_neg_integer()}.
%% What was logged, and what was not, in the current interval.

-spec new() -> limit().
new() ->
    {0, 0}.

%% How often the owner of a limit calls {@link tick/2}, as long as that answers `busy'.
-spec interval_ms() -> pos_integer().
interval_ms() ->
    ?INTERVAL_MS.

%% Logs the events of one batch, or counts them.
-spec log([py_nif:event()], logger:metadata(), limit()) -> limit().
log(Events, Meta, Limit) ->
    lists:foldl(fun(Event, Acc) -> log_one(Event, Meta, Acc) end, Limit, Events).

-spec log_one(py_nif:event(), logger:metadata(), limit()) -> limit().
log_one({log, Level, Message, EventMeta}, Meta, {Lines, Suppressed}) when Lines < ?LINES_MAX ->
    logger:log(Level, "~ts", [<<(speaker(Meta, EventMeta))/binary, Message/binary>>], maps:merge(Meta, known(EventMeta))),
    {Lines + 1, Suppressed};
log_one({dropped, Count}, _Meta, {Lines, Suppressed}) ->
    {Lines, Suppressed + Count};
log_one(_Event, _Meta, {Lines, Suppressed}) ->
    {Lines, Suppressed + 1}.

%% Not every handler shows metadata. What Python code says is left as it is.
-spec speaker(logger:metadata(), map()) -> binary().
speaker(_Meta, #{domain := _}) -> <<>>;
speaker(_Meta, #{python_logger := _}) -> <<>>;
speaker(#{py_context := Id}, _EventMeta) -> <<"context ", (integer_to_binary(Id))/binary, ": ">>.

%% File, line and domain as `logger' knows them.
-spec known(map()) -> map().
known(#{domain := <<"print">>} = Meta) ->
    %% The console's handler passes over domains that are not OTP's: what was printed is there already.
    known(Meta#{domain := [python, print], python_logger => <<"print">>});
known(#{file := File, line := Line} = Meta) ->
    Meta#{file := unicode:characters_to_list(File), line := binary_to_integer(Line)};
known(Meta) ->
    Meta.

%% Ends an interval: says how much was not logged. After an interval without a line the owner may stop ticking.
-spec tick(logger:metadata(), limit()) -> {idle | busy, limit()}.
tick(_Meta, {0, 0}) ->
    {idle, new()};
tick(_Meta, {_Lines, 0}) ->
    {busy, new()};
tick(Meta, {_Lines, Suppressed}) ->
    Text = "~tssuppressed ~b further log lines",
    logger:log(warning, Text, [speaker(Meta, #{}), Suppressed], Meta),
    {busy, new()}.
